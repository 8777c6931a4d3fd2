"""Reading an export: line after line, each checked against those before it, so that whatever is imported is whole."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import IO, Annotated, Any
from uuid import UUID

from pydantic import Field, TypeAdapter, ValidationError, create_model

from quern.api.conversations.jsonl import (
    FORMAT,
    VERSION,
    BranchLine,
    CallObject,
    ConversationLine,
    EndLine,
    ItemLine,
    Line,
    MessageObject,
    ResultObject,
    TurnLine,
)
from quern.api.shared.fields import JsonSchema
from quern.api.shared.sse import to_json
from quern.errors import InvalidRequest
from quern.records import Branch, Conversation, ConversationCopy, Fork, StoredItem, TurnCopy, TurnRecord
from quern.sampling import PARAMETERS
from quern.turns.asked import Asked
from quern.types import Item, Loop, Message, Role, Timings, ToolCall, ToolResult, Usage

_LINE: TypeAdapter[ConversationLine | BranchLine | TurnLine | ItemLine | EndLine] = TypeAdapter(
    Annotated[ConversationLine | BranchLine | TurnLine | ItemLine | EndLine, Field(discriminator="type")]
)
_OBJECT = TypeAdapter(JsonSchema)
_PARAMETERS: dict[str, Any] = {name: (parameter.type, parameter.field()) for name, parameter in PARAMETERS.items()}
_SAMPLING = create_model("SamplingObject", __base__=Line, **_PARAMETERS)


def decoded(file: IO[bytes], longest_line: int) -> Iterator[ConversationCopy]:
    """The conversations of an export, each once it is whole; what is wrong behind it shows later. Takes seconds for
    tens of megabytes, so call it in a thread. `longest_line`: bytes that a line may have.

    Raises InvalidRequest, with the number of the line, for anything that an export has not.
    """
    reader = _Reader()
    number = 1
    try:
        while line := file.readline(longest_line + 1):
            _check_length(line, longest_line)
            whole = reader.take(line) if line.strip() else None
            if whole is not None:
                yield whole
            number += line.endswith(b"\n")
        reader.check_ended()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "it"
        raise _refused(number, f"{where}: {first['msg']}") from error
    except ValueError as error:
        raise _refused(number, str(error)) from error


def _check_length(line: bytes, longest: int) -> None:
    if len(line) > longest:
        raise ValueError(f"it has more than {longest} bytes, the limit set by server.max_request_bytes")


def _refused(number: int, what: str) -> InvalidRequest:
    return InvalidRequest(
        f"Line {number} can't be imported: {what.rstrip('.')}. Nothing was imported. Send a file as it was exported.",
        field=f"line {number}",
    )


class _Conversation:
    """One that is being read. Its methods raise ValueError for what can't be a part of it."""

    def __init__(self, line: ConversationLine) -> None:
        self._line = line
        self._forks: dict[int, Fork] = {}
        self._branches: list[Branch] = []
        self._turns: dict[str, TurnCopy] = {}
        self._items: list[StoredItem] = []
        self._positions: set[int] = set()
        self._ids: set[UUID] = set()

    def branch(self, line: BranchLine) -> None:
        if line.number in self._forks:
            raise ValueError(f"there is a branch {line.number} already")
        if line.parent >= line.number:
            raise ValueError("a branch has a greater number than the one that it leaves")
        self._check_branch(line.parent)
        if line.after < self._begins(line.parent):
            raise ValueError(f"after is before the beginning of the branch {line.parent}")
        self._forks[line.number] = Fork(line.parent, line.after)
        self._branches.append(Branch(line.number, self._forks[line.number], line.created_at))

    def turn(self, line: TurnLine) -> None:
        self._check_branch(line.branch)
        self._check_new(line.id)
        _check("sampling", _SAMPLING.model_validate, line.sampling)
        _check("asked", Asked.load, line.asked)
        record = TurnRecord(
            id=str(line.id),
            conversation_id=str(self._line.id),
            owner="",
            request_id=line.request_id,
            model_id=line.model,
            state=line.state,
            finish_reason=line.finish_reason,
            error=line.error,
            text=line.text,
            usage=Usage(**line.usage.model_dump()),
            timings=Timings(**line.timings.model_dump()),
            created_at=line.created_at,
            started_at=line.started_at,
            finished_at=line.finished_at,
            repairs=line.repairs,
            loop=Loop(**line.loop.model_dump()) if line.loop is not None else None,
            branch=line.branch,
        )
        self._turns[record.id] = TurnCopy(record, line.sampling, line.asked)

    def item(self, line: ItemLine) -> None:
        self._check_branch(line.branch)
        self._check_new(line.id)
        turn_id = str(line.turn_id) if line.turn_id is not None else None
        if turn_id is not None and (turn_id not in self._turns or self._turns[turn_id].record.branch != line.branch):
            raise ValueError("its turn does not stand before it in the same branch")
        if line.position in self._positions:
            raise ValueError(f"there is an item at position {line.position} already")
        if line.position <= self._begins(line.branch):
            raise ValueError(f"its position is before the beginning of the branch {line.branch}")
        self._positions.add(line.position)
        conversation_id = str(self._line.id)
        item = _item(line.said)
        self._items.append(
            StoredItem(str(line.id), conversation_id, turn_id, line.position, item, line.created_at, line.branch)
        )

    def whole(self) -> ConversationCopy:
        line = self._line
        self._check_branch(line.head)
        conversation = Conversation(
            str(line.id),
            "",
            line.created_at,
            line.updated_at,
            line.metadata,
            line.title,
            line.pinned,
            line.archived,
            line.head,
        )
        said = sorted(self._items, key=lambda stored: stored.position)
        return ConversationCopy(conversation, tuple(self._branches), tuple(self._turns.values()), tuple(said))

    def _begins(self, branch: int) -> int:
        return self._forks[branch].after if branch else -1

    def _check_branch(self, branch: int) -> None:
        if branch and branch not in self._forks:
            raise ValueError(f"there is no branch {branch}")

    def _check_new(self, an_id: UUID) -> None:
        if an_id in self._ids:
            raise ValueError(f"the id {an_id} is there twice")
        self._ids.add(an_id)


def _check(name: str, read: Callable[[Any], object], value: Any) -> None:
    try:
        read(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, (name, *first['loc'])))}: {first['msg']}") from None


class _Reader:
    """Reads line after line. Its methods raise ValueError for what can't come next."""

    def __init__(self) -> None:
        self._begun = self._ended = False
        self._open: _Conversation | None = None
        self._count = 0

    def take(self, line: bytes) -> ConversationCopy | None:
        """The conversation that was before the line, where that begins another one or is the end."""
        members = _members(line)
        if not self._begun:
            _check_header(members)
            self._begun = True
            return None
        if self._ended:
            raise ValueError("it comes after the last line of an export")
        read = _LINE.validate_python(members)
        match read:
            case ConversationLine():
                return self._close(_Conversation(read))
            case EndLine():
                last = self._close(None)
                if read.conversations != self._count:
                    raise ValueError(f"there were {read.conversations} conversations, and here are {self._count}")
                self._ended = True
                return last
            case _ if self._open is None:
                raise ValueError("no conversation has begun before it")
            case BranchLine():
                self._open.branch(read)
            case TurnLine():
                self._open.turn(read)
            case ItemLine():
                self._open.item(read)
        return None

    def check_ended(self) -> None:
        if not self._ended:
            raise ValueError('the file ends before the line {"type": "end"}: it was cut off, or is no export')

    def _close(self, following: _Conversation | None) -> ConversationCopy | None:
        whole = self._open.whole() if self._open is not None else None
        self._count += whole is not None
        self._open = following
        return whole


def _members(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode(), parse_constant=_no_constant, parse_float=_finite)
        line_again = to_json(value).encode()
    except UnicodeEncodeError:
        raise ValueError("it has half of a surrogate pair, which is no character") from None
    except UnicodeDecodeError:
        raise ValueError("it is not valid UTF-8") from None
    except RecursionError:
        raise ValueError("it has too many levels inside of each other") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error.msg} at character {error.pos + 1}") from None
    if rb"\u0000" in line_again:
        raise ValueError("it has a NUL character (U+0000), which can't be stored")
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 (it is the line that is wrong)
    try:
        return _OBJECT.validate_python(value)
    except ValidationError as error:
        raise ValueError(error.errors(include_url=False)[0]["msg"]) from None


def _no_constant(name: str) -> float:
    raise ValueError(f"it has the number {name}, which JSON has not")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("it has a number that is too great")
    return value


def _check_header(members: dict[str, Any]) -> None:
    if members.get("type") != FORMAT:
        raise ValueError(f'an export begins with {{"type": "{FORMAT}", "version": {VERSION}}}')
    if members.get("version") != VERSION or isinstance(members["version"], bool):
        raise ValueError(f"it is of version {members.get('version')!r}, and this server reads version {VERSION}")


def _item(said: MessageObject | CallObject | ResultObject) -> Item:
    match said:
        case MessageObject():
            return Message(Role(said.role), said.content)
        case CallObject():
            return ToolCall(said.call_id, said.name, said.arguments, said.tool, said.namespace)
        case ResultObject():
            return ToolResult(said.call_id, said.output, said.tool)
