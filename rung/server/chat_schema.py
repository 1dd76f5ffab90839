"""What a chat request may say."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rung.server.errors import ApiError
from rung.server.requests import UNSUPPORTED, Asked

NAME = r"^[a-zA-Z0-9_-]{1,64}$"
MAX_TOOLS = 128
URI = "#/%$&'()*+,;=:@?!~"  # what stands in a reference as it is


class PictureUrl(BaseModel):
    """A picture as a data: URL; `detail` asks for what there is one way of."""

    model_config = ConfigDict(strict=True, extra="forbid")
    url: str
    detail: Literal["auto", "low", "high"] | None = None


class Part(BaseModel):
    """A piece of a message's content."""

    model_config = ConfigDict(strict=True, extra="allow")
    type: Literal["text", "image_url", "input_audio", "file", "refusal"]
    text: str | None = None
    refusal: str | None = None
    image_url: PictureUrl | None = None

    @model_validator(mode="after")
    def _has_what_it_says(self) -> Part:
        if self.type not in ("text", "refusal", "image_url"):
            raise ValueError(f"content of type '{self.type}' is not supported yet")
        if getattr(self, self.type) is None:
            raise ValueError(f"content of type '{self.type}' needs '{self.type}'")
        return self


class FunctionCall(BaseModel):
    """Which function a model called; `arguments` is JSON as text."""

    model_config = ConfigDict(strict=True, extra="forbid")
    name: str = Field(pattern=NAME)
    arguments: str


class ToolCall(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    id: str
    type: Literal["function"]
    function: FunctionCall


class ChatMessage(BaseModel):
    """One turn. It may carry more than is named here: clients send back what servers have said."""

    model_config = ConfigDict(strict=True, extra="allow")
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCall | None = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> ChatMessage:
        if self.content is None and not self._says_something:
            if self.role in ("developer", "system", "user"):
                raise ValueError("'content' is required")
            self.content = ""
        if self._calls and self.role != "assistant":
            raise ValueError(f"a message of role '{self.role}' calls no tools")
        if self.role == "tool" and not self.tool_call_id:
            raise ValueError("a message of role 'tool' needs 'tool_call_id'")
        if self.role == "function" and not self.name:
            raise ValueError("a message of role 'function' needs 'name'")
        return self

    @property
    def _says_something(self) -> bool:
        return bool(self._calls or self.refusal)

    @property
    def _calls(self) -> bool:
        return bool(self.tool_calls or self.function_call)

    @property
    def calls(self) -> list[FunctionCall]:
        """The functions that this turn called."""
        found = [call.function for call in self.tool_calls or ()]
        return [*found, self.function_call] if self.function_call else found

    @property
    def text(self) -> str:
        if self.content is None:
            return self.refusal or ""
        if isinstance(self.content, str):
            return self.content
        return "".join((p.text or "") + (p.refusal or "") for p in self.content)


def _quoted(schema: dict[str, Any]) -> dict[str, Any]:
    """Percent-encode the references of a schema in place: clients write names with blanks as they are.

    An iteration, not a recursion: a schema may be nested deeply.
    """
    waiting: list[Any] = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if isinstance(one.get("$ref"), str):
                one["$ref"] = quote(one["$ref"], safe=URI)
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return schema


Schema = Annotated[dict[str, Any], AfterValidator(_quoted)]


class Function(BaseModel):
    """What a model may call; `parameters` is a JSON schema."""

    model_config = ConfigDict(strict=True, extra="forbid")
    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _takes_an_object(self) -> Function:
        kind = (self.parameters or {}).get("type", "object")
        if kind != "object":
            raise ValueError(f"the parameters of '{self.name}' must be a schema of type 'object'")
        return self


class Tool(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["function"]
    function: Function


class NamedFunction(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    name: str


class NamedTool(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["function"]
    function: NamedFunction


class Allowed(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1, max_length=MAX_TOOLS)


class AllowedTools(BaseModel):
    """A part of the tools, of which the model may, or must, call one."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["allowed_tools"]
    allowed_tools: Allowed

    @property
    def names(self) -> list[str]:
        return [tool.function.name for tool in self.allowed_tools.tools]


class JsonSchema(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", populate_by_name=True)
    name: str = Field(pattern=NAME)
    description: str | None = None
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class TextFormat(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["text"]


class ObjectFormat(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["json_object"]


class SchemaFormat(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["json_schema"]
    json_schema: JsonSchema


class RegexFormat(BaseModel):
    """Rung's own: an answer that matches a regular expression."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["regex"]
    regex: str


class ChoiceFormat(BaseModel):
    """Rung's own: an answer that is one of several texts."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["choice"]
    choice: list[str] = Field(min_length=1, max_length=1024)


Format = Annotated[
    TextFormat | ObjectFormat | SchemaFormat | RegexFormat | ChoiceFormat, Field(discriminator="type")
]


class ChatRequest(Asked):
    unsupported = UNSUPPORTED | {
        "modalities": ((["text"],), "answers are text"),
        "audio": ((), "answers are text"),
        "prediction": ((), "text that comes again is predicted without being told"),
        "reasoning_effort": (("none",), "how long a model reasons follows from its training"),
        "verbosity": (("medium",), "how much a model says follows from its training; see max_tokens"),
        "web_search_options": ((), "the server asks nothing of the web"),
        "moderation": ((), "what is judged is the owner's choice (stages of the model)"),
    }

    messages: list[ChatMessage] = Field(min_length=1, max_length=4096)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: Format | None = None
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Function] | None = Field(None, max_length=MAX_TOOLS)
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    moderation: Any = None
    # Not OpenAI's: settings of the chat template, of which the server's owner allows some.
    chat_template_kwargs: dict[str, Any] | None = Field(None, max_length=32)

    @model_validator(mode="after")
    def _parts_fit(self) -> ChatRequest:
        names = [f.name for f in self.offered]
        forced = self.forced if isinstance(self.forced, str) else ""
        allowed = self.tool_choice.names if isinstance(self.tool_choice, AllowedTools) else []
        faults = (
            (len(set(names)) < len(names), "tools", "holds several functions of one name"),
            (self.top_logprobs and not self.logprobs, "top_logprobs", "needs 'logprobs': true"),
            (self.forced and not names, "tool_choice", "asks for a call, and there are no 'tools'"),
            (forced and forced not in names, "tool_choice", "names none of the 'tools'"),
            (set(allowed) - set(names), "tool_choice", "names what is none of the 'tools'"),
        )
        for wrong, param, told_ in faults:
            if wrong:
                raise ApiError(f"'{param}' {told_}", param=param, code="invalid_value")
        return self

    @property
    def offered(self) -> list[Function]:
        """What may be called, in either of OpenAI's words."""
        return [*(t.function for t in self.tools or ()), *(self.functions or ())]

    @property
    def forced(self) -> str | bool:
        """The name of the function that must be called; True for any of them."""
        if isinstance(self.tool_choice, NamedTool):
            return self.tool_choice.function.name
        if isinstance(self.function_call, NamedFunction):
            return self.function_call.name
        if isinstance(self.tool_choice, AllowedTools):
            return self.tool_choice.allowed_tools.mode == "required"
        return self.tool_choice == "required"

    @property
    def callable(self) -> list[Function]:
        """What the model is told of: nothing where calls are ruled out."""
        if isinstance(self.tool_choice, AllowedTools):
            return [f for f in self.offered if f.name in self.tool_choice.names]
        said = self.tool_choice if self.tools else self.function_call
        return [] if said == "none" else self.offered
