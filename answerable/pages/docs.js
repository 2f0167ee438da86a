"use strict";

// Swagger UI has dark colours, but leaves it to the page to ask for them
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

const ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  validatorUrl: null,
  tryItOutEnabled: true,
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: -1,
  // the other protocols are closed, unless the link goes to one
  onComplete: () => location.hash.includes("protocols") || document.querySelector(".opblock-tag[data-tag=protocols]")?.click(),
});
