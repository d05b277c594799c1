// Reads an AsyncAPI document from standard input; prints what its parser says against it, as JSON.
const { Parser } = require("@asyncapi/parser");

let text = "";
process.stdin.on("data", (part) => (text += part));
process.stdin.on("end", async () => {
  const { document, diagnostics } = await new Parser().parse(text);
  const found = diagnostics.map(({ severity, path, message }) => ({ severity, path: path.join("."), message }));
  const operations = document ? document.operations().all().map((o) => [o.id(), o.action(), !!o.reply()]) : null;
  console.log(JSON.stringify({ operations, found }));
});
