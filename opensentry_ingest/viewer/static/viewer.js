// What a page can do without this: everything. It sends a form of filters when a choice is made, copies a line of
// code, and brings a list up to date when somebody comes back to it.
"use strict";

for (const form of document.querySelectorAll("form.filters")) {
  for (const select of form.querySelectorAll("select")) {
    select.addEventListener("change", () => form.requestSubmit());
  }
  // Keeps parameters without a value out of the URL.
  form.addEventListener("formdata", (event) => {
    for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
  });
}

for (const code of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) break;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code.textContent.trim());
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  code.after(button);
}

const shown = Date.now();
document.addEventListener("visibilitychange", () => {
  const list = document.querySelector("[data-refresh]");
  const typing = document.activeElement?.matches("input, select");
  if (list && !document.hidden && !typing && Date.now() - shown > 60_000) location.reload();
});
