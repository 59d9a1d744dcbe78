// Use OpenAI's client for Node.js: pictures, an edit of two pictures, a stream, and a request that is aborted.
// Run it in a folder with node_modules: node …/openai_node.mjs URL

import { createRequire } from "node:module";
import path from "node:path";

const load = createRequire(path.join(process.cwd(), "package.json"));
const { default: OpenAI, toFile, APIError } = load("openai");
const url = process.argv[2];
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
let failed = 0;

function check(holds, text) {
  if (!holds) failed += 1;
  console.log(`${holds ? "ok" : "FAILED"}  ${text}`);
}

async function metric(name) {
  const text = await (await fetch(`${url}/metrics`)).text();
  const line = text.split("\n").find((each) => each.startsWith(`sensenova_${name} `));
  return Number(line.split(" ").at(-1));
}

const isPng = (data) => data.subarray(1, 4).toString() === "PNG";
const fileOf = (picture) => Buffer.from(picture.b64_json, "base64");

const made = await client.images.generate({ model: "demo", prompt: "a red circle", n: 2, size: "256x256", seed: 7 });
check(made.data.length === 2 && made.data.every((each) => isPng(fileOf(each))), "images.generate with n=2 returns two PNG files");
check(made.data[0].seed === 7 && made.data[1].seed === 8, "the answer contains the seeds 7 and 8");
check(made.usage.total_tokens === made.usage.input_tokens + made.usage.output_tokens, "usage adds up");

const files = await Promise.all(made.data.map((each, index) => toFile(fileOf(each), `${index}.png`, { type: "image/png" })));
const edited = await client.images.edit({ model: "demo", image: files, prompt: "make it blue", seed: 1, num_steps: 4 });
check(isPng(fileOf(edited.data[0])), "images.edit with two files returns a PNG file");
check(edited.usage.input_tokens_details.image_tokens > 0, "its usage counts the tokens of the pictures");

const events = [];
const stream = await client.images.generate({ model: "demo", prompt: "a cat", seed: 1, stream: true, partial_images: 3 });
for await (const event of stream) events.push(event);
const types = events.map((each) => each.type);
const expected = [...Array(3).fill("image_generation.partial_image"), "image_generation.completed"];
check(JSON.stringify(types) === JSON.stringify(expected), "a stream with partial_images=3 has three partial images and the picture");

const chat = await client.chat.completions.create({
  model: "demo",
  stream: true,
  stream_options: { include_usage: true },
  messages: [{ role: "user", content: [
    { type: "text", text: "What is this?" },
    { type: "image_url", image_url: { url: `data:image/png;base64,${made.data[0].b64_json}` } },
  ] }],
});
let answer = "", usage = null;
for await (const chunk of chat) {
  answer += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
check(answer.includes("circle") && usage.completion_tokens > 0, `a chat about a picture streams its answer: ${answer}`);

const before = await metric('requests_total{end="cancelled"}');
const controller = new AbortController();
setTimeout(() => controller.abort(), 1500);
let name = "none";
try {
  await client.images.generate({ model: "demo", prompt: "a cat", num_steps: 200 }, { signal: controller.signal, maxRetries: 0 });
} catch (error) {
  name = error.constructor.name;
}
check(name === "APIUserAbortError", "a request that is aborted ends with APIUserAbortError");
const end = Date.now() + 10000;
while ((await metric('requests_total{end="cancelled"}')) === before && Date.now() < end) await new Promise((done) => setTimeout(done, 50));
check((await metric('requests_total{end="cancelled"}')) === before + 1, "/metrics counts one more cancelled request");
check((await metric("requests_running")) === 0, "the model is free again");

let refused = null;
try {
  await client.images.generate({ model: "demo", prompt: "a cat", size: "100x100" });
} catch (error) {
  refused = error;
}
check(refused instanceof APIError && refused.status === 400 && refused.param === "size", `a wrong size is an APIError: ${refused?.message}`);
process.exit(failed ? 1 : 0);
