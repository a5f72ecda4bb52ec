// Asks lsof for the listeners, sends SIGTERM, sleeps 600 ms, sends SIGKILL to those that are left, sleeps 400 ms, and asks
// lsof each 50 ms, for 2 s at most, until nobody listens.
import { spawnSync } from "node:child_process";

const port = process.argv.at(-1);
const pids = () => {
  const { stdout } = spawnSync("lsof", ["-nP", `-iTCP:${port}`, "-sTCP:LISTEN", "-Fpc"], { encoding: "utf8" });
  return stdout.split("\n").filter((line) => line.startsWith("p")).map((line) => Number(line.slice(1)));
};
const sleep = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
const signal = (pid, name) => {
  try {
    process.kill(pid, name);
    return true;
  } catch {
    return false;
  }
};

const stale = pids();
stale.forEach((pid) => signal(pid, "SIGTERM"));
sleep(600);
stale.filter((pid) => signal(pid, 0)).forEach((pid) => signal(pid, "SIGKILL"));
sleep(400);
for (const deadline = Date.now() + 2000; pids().length > 0 && Date.now() < deadline; ) sleep(50);
