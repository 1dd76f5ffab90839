// The Vercel AI SDK: chat, stream, a forced tool, structured output, embeddings.
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { embedMany, generateText, Output, streamText, tool } from 'ai';
import assert from 'node:assert';
import { z } from 'zod';

const [url, name] = process.argv.slice(2);
const rung = createOpenAICompatible({
  name: 'rung', baseURL: `${url}/v1`, apiKey: 'none', supportsStructuredOutputs: true, includeUsage: true,
});
const asked = {
  model: rung(name), prompt: 'Name a colour.', maxOutputTokens: 200, temperature: 0, maxRetries: 0,
};
const weather = tool({
  description: 'Tell whether it is warm.', inputSchema: z.object({ warm: z.boolean() }),
});

const rounds = {
  async chat() {
    assert((await generateText(asked)).text.trim());
  },
  async stream() {
    let text = '';
    for await (const piece of streamText(asked).textStream) text += piece;
    assert.equal(text, (await generateText(asked)).text);
  },
  async tools() {
    const made = await generateText({ ...asked, tools: { weather }, toolChoice: 'required' });
    assert.equal(typeof made.toolCalls[0].input.warm, 'boolean');
  },
  async structured() {
    const output = Output.object({ schema: z.object({ happy: z.boolean() }) });
    assert.equal(typeof (await generateText({ ...asked, output })).output.happy, 'boolean');
  },
  async embeddings() {
    const model = (rung.embeddingModel ?? rung.textEmbeddingModel)(name);
    const { embeddings } = await embedMany({ model, values: ['a red apple', 'a green pear'] });
    assert.equal(embeddings.length, 2);
  },
};
let failed = 0;
for (const [round, work] of Object.entries(rounds)) {
  try {
    await work();
    console.log(`  ${round}: ok`);
  } catch (fault) {
    failed += 1;
    console.log(`  ${round}: FAILED\n${fault.stack}`);
  }
}
process.exit(failed);
