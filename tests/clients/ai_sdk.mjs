// The AI SDK with @ai-sdk/openai: its default, openai(), which calls the Responses API, and openai.chat().
import { createOpenAI, openai } from "@ai-sdk/openai";
import { APICallError, Output, generateText, isStepCount, jsonSchema, streamText, tool } from "ai";
import {
  BAD_TOKEN, IBEX, INTERRUPTED_MODEL, MODEL, NEXT_QUESTION, PARAMETERS, QUESTION, REFUSED_MODEL, TOOL_DESCRIPTION,
  UNKNOWN_MODEL, serve, weather,
} from "./protocol.mjs";

function agent(called) {
  const execute = async (argument) => {
    called.push("weather");
    return weather(argument);
  };
  return {
    tools: { weather: tool({ description: TOOL_DESCRIPTION, inputSchema: jsonSchema(PARAMETERS), execute }) },
    stopWhen: isStepCount(3),
  };
}

function cases(name, modelOf) {
  const asking = (model, from = openai) => async () => {
    try {
      await generateText({ model: modelOf(from, model), prompt: QUESTION });
    } catch (error) {
      if (!APICallError.isInstance(error)) throw error;
      const { code } = JSON.parse(error.responseBody).error;
      return [`generateText(${name})`, { error: error.name, status: error.statusCode, code }];
    }
    return [`generateText(${name})`, { error: null }];
  };
  return {
    async chat() {
      const { text } = await generateText({ model: modelOf(openai, MODEL), prompt: QUESTION });
      return [`generateText(${name})`, { text }];
    },

    async streaming() {
      const stream = streamText({ model: modelOf(openai, MODEL), prompt: QUESTION });
      const pieces = [];
      for await (const piece of stream.textStream) pieces.push(piece);
      const { totalTokens: tokens } = await stream.usage;
      return [`streamText(${name})`, { text: pieces.join(""), pieces: pieces.length, tokens }];
    },

    async tools() {
      const called = [];
      const { text } = await generateText({ model: modelOf(openai, MODEL), prompt: QUESTION, ...agent(called) });
      return [`generateText(${name}, tools)`, { tool: called.join(), text }];
    },

    async "tools, streamed"() {
      const called = [];
      const stream = streamText({ model: modelOf(openai, MODEL), prompt: QUESTION, ...agent(called) });
      let text = "";
      for await (const piece of stream.textStream) text += piece;
      return [`streamText(${name}, tools)`, { tool: called.join(), text }];
    },

    async interrupted() {
      const stream = streamText({ model: modelOf(openai, INTERRUPTED_MODEL), prompt: QUESTION, onError() {} });
      let text = "";
      let error;
      for await (const part of stream.fullStream) {
        if (part.type === "text-delta") text += part.text;
        if (part.type === "error") error = part.error;
      }
      return [`streamText(${name})`, { text, told: error !== undefined, code: error?.code ?? `${error}` }];
    },

    async "structured output"() {
      const shape = Output.object({ schema: jsonSchema(IBEX) });
      const { output } = await generateText({ model: modelOf(openai, MODEL), prompt: QUESTION, output: shape });
      return [`generateText(${name}, Output.object)`, { parsed: output }];
    },

    "bad token": asking(MODEL, createOpenAI({ apiKey: BAD_TOKEN })),
    "unknown model": asking(UNKNOWN_MODEL),
    refused: asking(REFUSED_MODEL),
  };
}

const continued = async () => {
  const first = await generateText({ model: openai(MODEL), prompt: QUESTION });
  const { responseId: previousResponseId } = first.providerMetadata.openai;
  const second = await generateText({
    model: openai(MODEL), prompt: NEXT_QUESTION, providerOptions: { openai: { previousResponseId } },
  });
  return ["generateText(openai(), previousResponseId)", { text: second.text }];
};

await serve({
  chat: cases("openai.chat()", (from, model) => from.chat(model)),
  responses: { ...cases("openai()", (from, model) => from(model)), continued },
});
