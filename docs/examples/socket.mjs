// Cleans a port by the agent's socket: no program is started, and nothing blocks.
//
//   node socket.mjs 18789
import { request } from "node:http";

export function clean(port, { graceMs = 5000 } = {}) {
  return new Promise((resolve, reject) => {
    const asked = request(
      {
        socketPath: process.env.GATEWATCH_SOCKET ?? "/run/gatewatch/agent.sock",
        path: `/v1/ports/${port}/clean`,
        method: "POST",
        headers: { "content-type": "application/json" },
        timeout: graceMs + 10_000,
      },
      (answer) => {
        let text = "";
        answer.setEncoding("utf8");
        answer.on("data", (part) => (text += part));
        answer.on("error", reject);
        answer.on("end", () => {
          // 403: this user may not clean the port. 404: the agent does not watch it.
          if (answer.statusCode === 200) resolve(JSON.parse(text));
          else reject(new Error(`${answer.statusCode}: ${text}`));
        });
      },
    );
    asked.on("timeout", () => asked.destroy(new Error("the agent does not answer")));
    asked.on("error", reject);
    asked.end(JSON.stringify({ term_timeout_ms: graceMs }));
  });
}

console.log(JSON.stringify(await clean(Number(process.argv[2]))));
