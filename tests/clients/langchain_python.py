"""LangChain for Python with langchain-openai: chat completions, and the Responses API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from clients.protocol import (
    BAD_TOKEN,
    INTERRUPTED_MODEL,
    MODEL,
    NEXT_QUESTION,
    QUESTION,
    REFUSED_MODEL,
    UNKNOWN_MODEL,
    serve,
    weather,
)

if TYPE_CHECKING:
    from clients.protocol import Case

weather_tool = tool(weather)


class Ibex(BaseModel):
    """The schema of a structured response."""

    name: str
    legs: int


class Cases:
    """The cases of one API. With a base URL from the environment, LangChain requests usage only if configured to."""

    def __init__(self, **settings: Any) -> None:
        self._settings = {"stream_usage": True, **settings}
        self._llm = ChatOpenAI(model=MODEL, **self._settings)
        self._name = f"ChatOpenAI({', '.join(f'{name}={value}' for name, value in settings.items())})"

    def chat(self) -> tuple[str, object]:
        """A response."""
        return f"{self._name}.invoke", {"text": self._llm.invoke(QUESTION).text}

    def streaming(self) -> tuple[str, object]:
        """A streamed response, with usage."""
        chunks = list(self._llm.stream(QUESTION))
        texts = [chunk.text for chunk in chunks if chunk.text]
        tokens = sum(chunk.usage_metadata["total_tokens"] for chunk in chunks if chunk.usage_metadata)
        return f"{self._name}.stream", {"text": "".join(texts), "pieces": len(texts), "tokens": tokens}

    def tools(self) -> tuple[str, object]:
        """A tool call and its result."""
        agent, messages = self._llm.bind_tools([weather_tool]), [HumanMessage(QUESTION)]
        first = agent.invoke(messages)
        call = first.tool_calls[0]
        second = agent.invoke([*messages, first, ToolMessage(weather(**call["args"]), tool_call_id=call["id"])])
        return f"{self._name}.bind_tools().invoke", {"tool": call["name"], "text": second.text}

    def tools_streamed(self) -> tuple[str, object]:
        """A tool call and its result, both streamed."""
        agent, messages = self._llm.bind_tools([weather_tool]), [HumanMessage(QUESTION)]
        first, *more = agent.stream(messages)
        for chunk in more:
            first += chunk
        call = first.tool_calls[0]
        result = ToolMessage(weather(**call["args"]), tool_call_id=call["id"])
        text = "".join(chunk.text for chunk in agent.stream([*messages, first, result]))
        return f"{self._name}.bind_tools().stream", {"tool": call["name"], "text": text}

    def structured(self) -> tuple[str, object]:
        """A response that matches a schema."""
        parsed = self._llm.with_structured_output(Ibex).invoke(QUESTION)
        return f"{self._name}.with_structured_output", {"parsed": parsed.model_dump()}

    def interrupted(self) -> tuple[str, object]:
        """An interrupted stream."""
        texts: list[str] = []
        call = f"{self._name}.stream"
        try:
            texts.extend(chunk.text for chunk in ChatOpenAI(model=INTERRUPTED_MODEL, **self._settings).stream(QUESTION))
        except (openai.APIError, ValueError) as failure:  # ValueError for a response.failed event
            return call, {"text": "".join(texts), "told": True, "error": repr(failure)}
        return call, {"text": "".join(texts), "told": False}

    def error(self, model: str, **more: Any) -> tuple[str, object]:
        """A refused request."""
        call = f"{self._name}.invoke"
        try:
            ChatOpenAI(model=model, **self._settings, **more).invoke(QUESTION)
        except openai.APIStatusError as error:
            return call, {"error": type(error).__name__, "status": error.status_code, "code": error.code}
        return call, {"error": None}

    def by_name(self) -> dict[str, Case]:
        """Return the cases by name."""
        return {
            "chat": self.chat,
            "streaming": self.streaming,
            "tools": self.tools,
            "tools, streamed": self.tools_streamed,
            "structured output": self.structured,
            "interrupted": self.interrupted,
            "bad token": lambda: self.error(MODEL, api_key=BAD_TOKEN),
            "unknown model": lambda: self.error(UNKNOWN_MODEL),
            "refused": lambda: self.error(REFUSED_MODEL),
        }


def continued() -> tuple[str, object]:
    """A second turn that continues a conversation stored by the provider."""
    llm = ChatOpenAI(model=MODEL, use_responses_api=True, use_previous_response_id=True)
    first = llm.invoke([HumanMessage(QUESTION)])
    second = llm.invoke([HumanMessage(QUESTION), first, HumanMessage(NEXT_QUESTION)])
    return "ChatOpenAI(use_previous_response_id=True).invoke", {"text": second.text}


if __name__ == "__main__":
    serve(
        chat=Cases().by_name(),
        responses={**Cases(use_responses_api=True).by_name(), "continued": continued},
    )
