// Runs the cleaning module of an installed release on a port, and says what it did and how long it took.
import { readdirSync } from "node:fs";
import { join } from "node:path";

const [dist, port] = process.argv.slice(2);
const files = readdirSync(dist).filter((name) => /^restart-stale-pids-.*\.m?js$/.test(name));
const modules = await Promise.all(files.map((name) => import(join(dist, name))));
const clean = modules.flatMap((module) => Object.values(module)).find(({ name }) => name === "cleanStaleGatewayProcessesSync");
const begun = performance.now();
const killed = clean(Number(port));
console.log(JSON.stringify({ killed, ms: Math.round(performance.now() - begun) }));
