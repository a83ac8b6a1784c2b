// tar-stream as its README shows it: an entry with its size, the content piped into it, the next
// one when its callback says that it was added.
import tar from "tar-stream";
import { get, members, serve } from "./members.mjs";

serve(async (format, response) => {
  const pack = tar.pack();
  pack.pipe(response);
  for (const { name, size, mtime, url } of members) {
    const content = await get(url);
    await new Promise((resolve, reject) => {
      const header = { name, size, mtime: new Date(mtime * 1000) };
      const entry = pack.entry(header, (error) => (error ? reject(error) : resolve()));
      entry.on("error", reject); // the client left
      content.pipe(entry);
    });
  }
  pack.finalize();
});
