// Cleans a port by the command. Simple, and right for a small process. Where the caller is large, the start of any
// program blocks it for 35 to 65 ms: see socket.mjs and worker.mjs.
//
//   node command.mjs 18789
import { spawnSync } from "node:child_process";

export function cleanSync(port, { graceMs = 5000 } = {}) {
  const { stdout, stderr, error } = spawnSync(
    process.env.GATEWATCH ?? "gatewatch",
    ["clean", "--port", String(port), "--term-timeout", `${graceMs}ms`, "--format", "json"],
    { encoding: "utf8", timeout: graceMs + 10_000 },
  );
  if (error) throw error;
  // The outcome is in the answer; the exit status says the same. Without an answer something failed.
  if (!stdout) throw new Error(stderr.trim());
  return JSON.parse(stdout);
}

console.log(JSON.stringify(cleanSync(Number(process.argv[2]))));
