"""The body of an infill request.

Source: "POST /infill" in llama.cpp's tools/server/README.md, and what the plug-ins llama.vim and llama.vscode send;
docs/api.md has the table of every field.
"""

from __future__ import annotations

from pydantic import Field

from quern.api.llamacpp.generation_fields import GenerationFields
from quern.api.shared.fields import NoOp, RequestObject
from quern.turns.tokens import EncodedPrompt, TokenService


class ExtraFile(RequestObject):
    """A piece of another file of the repository."""

    text: str
    filename: str = "file"
    time: NoOp = None


class InfillRequest(GenerationFields):
    """`POST /infill`."""

    input_prefix: str
    input_suffix: str
    input_extra: list[ExtraFile] = Field(default_factory=list[ExtraFile])
    prompt: str = Field(default="", description="How the filling begins.")

    def encode(self, tokens: TokenService) -> EncodedPrompt:
        """The prompt's ids; call it in a thread. Raises InvalidRequest where the model can't fill gaps."""
        files = [(extra.filename, extra.text) for extra in self.input_extra]
        encoded = tokens.encode_gap(self.input_prefix, self.input_suffix, begun=self.prompt, files=files)
        return encoded.in_background() if self.only_reads else encoded
