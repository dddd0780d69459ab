// Builds dist/webhook-js.wasm; `eventstream plugin build` cannot yet.
//
// componentize-qjs starts the program once while it builds. There it has a `wasi:io` of its own, which does not fit the
// `wasi:http` that it only stubs, and it gives up. So both have other names of the same length while it works.
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const NAMES = [["wasi:http", "late:http"], ["wasi:io", "late:io"]];

process.chdir(fileURLToPath(new URL(".", import.meta.url)));
const staged = join("dist", "staged");
rmSync(staged, { recursive: true, force: true });
mkdirSync(staged, { recursive: true });
cpSync("wit", join(staged, "wit"), { recursive: true });
readdirSync(".").filter((file) => file.endsWith(".js")).forEach((file) => cpSync(file, join(staged, file)));
for (const entry of readdirSync(staged, { recursive: true, withFileTypes: true })) {
  if (entry.isFile()) {
    const file = join(entry.parentPath, entry.name);
    writeFileSync(file, NAMES.reduce((text, [from, to]) => text.replaceAll(from, to), readFileSync(file, "utf8")));
  }
}

const built = join(staged, "component.wasm");
const sources = ["--wit", join(staged, "wit"), "--world", "plugin", "--js", join(staged, "handler.js")];
const tool = join("node_modules", "componentize-qjs", "cli.mjs");
execFileSync(process.execPath, [tool, ...sources, "--sync", "--minify", "--output", built], { stdio: "inherit" });

const component = readFileSync(built);
for (const [from, to] of NAMES) {
  for (let at = component.indexOf(to); at !== -1; at = component.indexOf(to, at)) {
    component.write(from, at);
  }
}
writeFileSync(join("dist", "webhook-js.wasm"), component);
rmSync(staged, { recursive: true });
