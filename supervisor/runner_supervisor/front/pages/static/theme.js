// Light or dark before the first paint: what was chosen here, else what the system says.
const chosen = localStorage.getItem("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
document.documentElement.dataset.theme = chosen ?? (system.matches ? "dark" : "light");
