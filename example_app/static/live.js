// Keeps open pages current: [data-live] is fetched again, [data-progress] follows a job to its end.
const EVERY = 1000;

async function refresh(section) {
  const page = new DOMParser().parseFromString(await (await fetch(location)).text(), "text/html");
  const fresh = page.querySelector("[data-live]");
  // Untouched while nothing changed: a button must not vanish under the finger.
  if (fresh && fresh.innerHTML !== section.innerHTML) section.innerHTML = fresh.innerHTML;
}

async function follow(box) {
  const report = await (await fetch(box.dataset.progress)).json();
  box.querySelector("progress").value = report.done;
  box.querySelector("[data-done]").textContent = report.done;
  const state = box.querySelector(".state");
  state.textContent = report.state;
  state.className = `state ${report.state}`;
  if (report.final) location.reload();
}

function repeat(turn, element) {
  const again = () => setTimeout(() => repeat(turn, element), EVERY);
  if (document.hidden) return again();
  turn(element).catch(() => {}).finally(again); // the server may be away for a moment
}

document.querySelectorAll("[data-live]").forEach((section) => repeat(refresh, section));
document.querySelectorAll("[data-progress]").forEach((box) => repeat(follow, box));
