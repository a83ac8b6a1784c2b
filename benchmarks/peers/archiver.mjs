// archiver as its README shows it: append a stream, pipe to the response, finalize. `stats` says
// the size, which a tar needs before the content: without it archiver collects each member whole.
// The next member is asked for when the last one is in: a stream that waits for its turn would hold
// a connection that its origin closes.
import { once } from "node:events";
import { TarArchive, ZipArchive } from "archiver";
import { get, members, serve } from "./members.mjs";

serve(async (format, response) => {
  const archive = format === "tar" ? new TarArchive() : new ZipArchive({ store: true });
  archive.on("error", (error) => response.destroy(error));
  archive.pipe(response);
  for (const { name, size, mtime, url } of members) {
    const content = await get(url);
    const stats = { size };
    archive.append(content, { name, stats, mode: 0o644, date: new Date(mtime * 1000) });
    await once(archive, "entry");
  }
  archive.finalize();
});
