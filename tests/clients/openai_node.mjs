// openai for node: chat completions and Responses.
import OpenAI from "openai";
import {
  BAD_TOKEN, IBEX, INTERRUPTED_MODEL, MODEL, NEXT_QUESTION, PARAMETERS, QUESTION, REFUSED_MODEL, TOOL_DESCRIPTION,
  UNKNOWN_MODEL, serve, weather,
} from "./protocol.mjs";

const client = new OpenAI();
const messages = [{ role: "user", content: QUESTION }];
const weatherFunction = { name: "weather", description: TOOL_DESCRIPTION, parameters: PARAMETERS, strict: true };
const chatTools = [{ type: "function", function: weatherFunction }];
const tools = [{ type: "function", ...weatherFunction }];
const format = { type: "json_schema", name: "ibex", schema: IBEX, strict: true };

const completions = {
  async chat() {
    const completion = await client.chat.completions.create({ model: MODEL, messages });
    return ["chat.completions.create", { text: completion.choices[0].message.content }];
  },

  async streaming() {
    const pieces = [];
    let tokens;
    const stream = await client.chat.completions.create({
      model: MODEL, messages, stream: true, stream_options: { include_usage: true },
    });
    for await (const chunk of stream) {
      for (const choice of chunk.choices) if (choice.delta.content) pieces.push(choice.delta.content);
      tokens = chunk.usage?.total_tokens ?? tokens;
    }
    return ["chat.completions.create({stream: true})", { text: pieces.join(""), pieces: pieces.length, tokens }];
  },

  async tools() {
    const first = await client.chat.completions.create({ model: MODEL, messages, tools: chatTools });
    const message = first.choices[0].message;
    const [call] = message.tool_calls;
    const content = weather(JSON.parse(call.function.arguments));
    const all = [...messages, message, { role: "tool", tool_call_id: call.id, content }];
    const second = await client.chat.completions.create({ model: MODEL, messages: all, tools: chatTools });
    return ["chat.completions.create({tools})", { tool: call.function.name, text: second.choices[0].message.content }];
  },

  async "tools, streamed"() {
    const called = [];
    const runner = client.chat.completions.runTools({
      model: MODEL, messages, stream: true, tools: [{
        type: "function",
        function: {
          ...weatherFunction,
          parse: JSON.parse,
          function: (argument) => {
            called.push("weather");
            return weather(argument);
          },
        },
      }],
    });
    return ["chat.completions.runTools({stream: true})", { text: await runner.finalContent(), tool: called.join() }];
  },

  async interrupted() {
    const stream = await client.chat.completions.create({ model: INTERRUPTED_MODEL, messages, stream: true });
    const textOf = (chunk) => chunk.choices[0]?.delta.content;
    return interrupted("chat.completions.create({stream: true})", stream, textOf, () => undefined);
  },

  async "structured output"() {
    const { type, ...json_schema } = format;
    const completion = await client.chat.completions.parse({
      model: MODEL, messages, response_format: { type, json_schema },
    });
    return ["chat.completions.parse", { parsed: JSON.parse(completion.choices[0].message.content) }];
  },
};

async function interrupted(call, stream, textOf, codeOf) {
  let text = "";
  let code;
  try {
    for await (const event of stream) {
      text += textOf(event) ?? "";
      code = codeOf(event) ?? code;
    }
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    return [call, { text, told: true, code: code ?? error.code }];
  }
  return [call, { text, told: false, code }];
}

function resultOf(response) {
  const call = response.output.find((item) => item.type === "function_call");
  const output = weather(JSON.parse(call.arguments));
  return [call, { type: "function_call_output", call_id: call.call_id, output }];
}

const responses = {
  async chat() {
    const response = await client.responses.create({ model: MODEL, input: QUESTION });
    return ["responses.create", { text: response.output_text }];
  },

  async streaming() {
    const pieces = [];
    let tokens;
    for await (const event of await client.responses.create({ model: MODEL, input: QUESTION, stream: true })) {
      if (event.type === "response.output_text.delta") pieces.push(event.delta);
      if (event.type === "response.completed") tokens = event.response.usage.total_tokens;
    }
    return ["responses.create({stream: true})", { text: pieces.join(""), pieces: pieces.length, tokens }];
  },

  async tools() {
    const first = await client.responses.create({ model: MODEL, input: messages, tools });
    const [call, result] = resultOf(first);
    const input = [...messages, ...first.output, result];
    const second = await client.responses.create({ model: MODEL, input, tools });
    return ["responses.create({tools})", { tool: call.name, text: second.output_text }];
  },

  async "tools, streamed"() {
    const first = await client.responses.stream({ model: MODEL, input: messages, tools }).finalResponse();
    const [call, result] = resultOf(first);
    const output = first.output.map(({ parsed_arguments, ...item }) => item);
    const input = [...messages, ...output, result];
    const second = await client.responses.stream({ model: MODEL, input, tools }).finalResponse();
    return ["responses.stream({tools})", { tool: call.name, text: second.output_text }];
  },

  async continued() {
    const first = await client.responses.create({ model: MODEL, input: QUESTION });
    const second = await client.responses.create({
      model: MODEL, input: NEXT_QUESTION, previous_response_id: first.id,
    });
    return ["responses.create({previous_response_id})", { text: second.output_text }];
  },

  async interrupted() {
    const stream = await client.responses.create({ model: INTERRUPTED_MODEL, input: QUESTION, stream: true });
    const textOf = (event) => (event.type === "response.output_text.delta" ? event.delta : undefined);
    return interrupted("responses.create({stream: true})", stream, textOf, (event) => event.response?.error?.code);
  },

  async "structured output"() {
    const response = await client.responses.parse({ model: MODEL, input: QUESTION, text: { format } });
    return ["responses.parse", { parsed: JSON.parse(response.output_text) }];
  },
};

function errors(call, ask) {
  const asking = (model, asked = client) => async () => {
    try {
      await ask(asked, model);
    } catch (error) {
      return [call, { error: error.constructor.name, status: error.status, code: error.code }];
    }
    return [call, { error: null }];
  };
  return {
    "bad token": asking(MODEL, client.withOptions({ apiKey: BAD_TOKEN })),
    "unknown model": asking(UNKNOWN_MODEL),
    refused: asking(REFUSED_MODEL),
  };
}

await serve({
  chat: {
    ...completions,
    ...errors("chat.completions.create", (asked, model) => asked.chat.completions.create({ model, messages })),
  },
  responses: {
    ...responses,
    ...errors("responses.create", (asked, model) => asked.responses.create({ model, input: QUESTION })),
  },
});
