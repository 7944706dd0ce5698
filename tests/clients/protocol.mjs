// What the node programs of `make clients` share: the cases on standard input, their outcomes on standard output.
// protocol.py says how; the settings are OPENAI_BASE_URL and OPENAI_API_KEY.
import readline from "node:readline";

export const MODEL = "gpt-5";
export const UNKNOWN_MODEL = "no-such-model";
export const REFUSED_MODEL = "gpt-refused";
export const INTERRUPTED_MODEL = "gpt-interrupted";
export const BAD_TOKEN = "ibex_pat_bad";
export const QUESTION = "What is an ibex?";
export const NEXT_QUESTION = "And a chamois?";
export const TOOL_DESCRIPTION = "Return the weather in a city.";
export const PARAMETERS = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
export const IBEX = {
  type: "object",
  properties: { name: { type: "string" }, legs: { type: "integer" } },
  required: ["name", "legs"],
  additionalProperties: false,
};

export const weather = ({ city }) => `7 degrees in ${city}`;

export async function serve(apis) {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    let said;
    try {
      const [call, outcome] = await apis[asked.api][asked.case]();
      said = { call, outcome };
    } catch (error) {
      said = { failure: `${error?.name}: ${error?.message}` };
    }
    process.stdout.write(`${JSON.stringify(said)}\n`);
  }
}
