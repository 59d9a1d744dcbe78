// Use Vercel's AI SDK (`ai` and `@ai-sdk/openai-compatible`): pictures, an edit, a chat about a picture, and a wrong size.
// Run it in a folder with node_modules: node …/ai_sdk.mjs URL

import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const load = createRequire(path.join(process.cwd(), "package.json"));
const { generateImage, experimental_generateImage, streamText, APICallError } = await import(pathToFileURL(load.resolve("ai")));
const { createOpenAICompatible } = await import(pathToFileURL(load.resolve("@ai-sdk/openai-compatible")));
const draw = generateImage ?? experimental_generateImage;
const provider = createOpenAICompatible({ name: "sensenova", baseURL: `${process.argv[2]}/v1`, includeUsage: true });
let failed = 0;

function check(holds, text) {
  if (!holds) failed += 1;
  console.log(`${holds ? "ok" : "FAILED"}  ${text}`);
}

const { images } = await draw({
  model: provider.imageModel("demo"),
  prompt: "a red circle",
  n: 2,
  size: "256x256",
  providerOptions: { sensenova: { seed: 7 } },
});
check(images.length === 2 && images.every((each) => each.mediaType === "image/png"), "generateImage with n=2 returns two PNG files");

const edited = await draw({
  model: provider.imageModel("demo"),
  prompt: { text: "make it blue", images: [images[0].uint8Array] },
});
check(edited.image.mediaType === "image/png", "generateImage with a picture in its prompt returns an edit");

const two = await draw({
  model: provider.imageModel("demo"),
  prompt: { text: "make it blue", images: images.map((each) => each.uint8Array) },
});
check(two.image.mediaType === "image/png", "generateImage with two pictures in its prompt returns an edit");

const chat = streamText({
  model: provider.chatModel("demo"),
  messages: [{ role: "user", content: [{ type: "text", text: "What is this?" }, { type: "image", image: images[0].uint8Array, mediaType: "image/png" }] }],
});
let answer = "";
for await (const text of chat.textStream) answer += text;
const usage = await chat.usage;
check(answer.includes("circle") && usage.inputTokens > 0, `streamText about a picture: ${answer}`);

let refused = null;
try {
  await draw({ model: provider.imageModel("demo"), prompt: "a cat", size: "100x100" });
} catch (error) {
  refused = error;
}
check(APICallError.isInstance(refused) && refused.statusCode === 400 && refused.message.includes("100"), `a wrong size is an APICallError: ${refused?.message}`);
process.exit(failed ? 1 : 0);
