// What all servers in Node share: the members to pack, one member from its origin, the server.
import { readFileSync } from "node:fs";
import http from "node:http";

const [port, manifest] = process.argv.slice(2);

export const members = JSON.parse(readFileSync(manifest));

// One connection is used again: Node's own agent keeps it.
export function get(url) {
  return new Promise((resolve, reject) => {
    http
      .get(url, (response) => {
        if (response.statusCode === 200) resolve(response);
        else reject(new Error(`${url}: ${response.statusCode}`));
      })
      .on("error", reject);
  });
}

// `pack` writes an archive of a format to a response.
export function serve(pack) {
  http
    .createServer((request, response) => {
      const format = request.url.slice(1);
      response.setHeader("Content-Type", `application/${format}`);
      pack(format, response).catch((error) => {
        console.error(error);
        response.destroy();
      });
    })
    .listen(Number(port), "127.0.0.1");
}
