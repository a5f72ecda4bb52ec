// Cleans a port by the agent's socket from a worker, while the caller waits for it: synchronous like spawnSync, and no
// program is started. The worker is started once, early; each call then costs a millisecond plus the gateway's own end.
//
//   node worker.mjs 18789
import { request } from "node:http";
import { MessageChannel, Worker, isMainThread, receiveMessageOnPort, workerData } from "node:worker_threads";

if (isMainThread) {
  const { port1: here, port2: there } = new MessageChannel();
  const done = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(new URL(import.meta.url), { workerData: { there, done }, transferList: [there] });
  worker.unref();

  const cleanSync = (port, graceMs = 5000) => {
    Atomics.store(done, 0, 0);
    here.postMessage({ port, graceMs });
    if (Atomics.wait(done, 0, 0, graceMs + 10_000) === "timed-out") throw new Error("the agent does not answer");
    const { answer, error } = receiveMessageOnPort(here).message;
    if (error) throw new Error(error);
    return answer;
  };

  console.log(JSON.stringify(cleanSync(Number(process.argv[2]))));
} else {
  const { there, done } = workerData;
  const reply = (message) => {
    there.postMessage(message);
    Atomics.store(done, 0, 1);
    Atomics.notify(done, 0);
  };
  there.on("message", ({ port, graceMs }) => {
    const asked = request(
      {
        socketPath: process.env.GATEWATCH_SOCKET ?? "/run/gatewatch/agent.sock",
        path: `/v1/ports/${port}/clean`,
        method: "POST",
        headers: { "content-type": "application/json" },
      },
      (answer) => {
        let text = "";
        answer.setEncoding("utf8");
        answer.on("data", (part) => (text += part));
        answer.on("error", (error) => reply({ error: error.message }));
        answer.on("end", () =>
          reply(answer.statusCode === 200 ? { answer: JSON.parse(text) } : { error: `${answer.statusCode}: ${text}` }),
        );
      },
    );
    asked.on("error", (error) => reply({ error: error.message }));
    asked.end(JSON.stringify({ term_timeout_ms: graceMs }));
  });
}
