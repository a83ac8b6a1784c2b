// node sign.js KEY_ID EXP URL: signs the URL with the secret in TARSTREAM_SIGN_SECRET.

const { createHmac } = require("node:crypto");

/** The URL, signed; it counts until `exp`, in Unix seconds. */
function sign(url, keyId, secret, exp) {
  url += `${url.includes("?") ? "&" : "?"}exp=${exp}&key=${keyId}`;
  const target = url.replace(/^https?:\/\/[^/]*/, ""); // path and query, as they will be sent
  const sig = createHmac("sha256", secret).update(target).digest("hex");
  return `${url}&sig=${sig}`;
}

const [keyId, exp, url] = process.argv.slice(2);
console.log(sign(url, keyId, process.env.TARSTREAM_SIGN_SECRET, exp));
