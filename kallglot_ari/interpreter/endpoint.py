"""Translation by any OpenAI-compatible endpoint: llama.cpp's server, Ollama, vLLM, or a cloud."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp
import orjson

from kallglot_ari.errors import InterpreterError
from kallglot_ari.interpreter import prompt
from kallglot_ari.interpreter.languages import Language

ANSWER_SECONDS = 8.0


class EndpointTranslator:
    """One HTTP request a sentence, over connections that stay open."""

    def __init__(self, url: str, model: str, api_key: str, languages: Mapping[str, Language]) -> None:
        """:param url: base address, with or without `/v1`. :raises InterpreterError: when it is none."""
        if not url.startswith(("http://", "https://")):
            raise InterpreterError(
                "interpreter.translator_url: expected the base address of an OpenAI-compatible endpoint"
            )
        base = url.rstrip("/")
        self._url = f"{base}/chat/completions" if base.endswith("/v1") else f"{base}/v1/chat/completions"
        self._model = model
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._languages = languages
        self._http: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        return "openai"

    def supports(self, source: str, target: str) -> bool:
        return source in self._languages and target in self._languages and source != target

    async def prepare(self, source: str, target: str) -> None:
        """One sentence, so that the server has loaded its model and read the examples."""
        await self.translate(self._languages[source].examples[0], source, target)

    async def translate(self, text: str, source: str, target: str) -> str:
        language = self._languages[target]
        body: dict[str, object] = {
            "messages": prompt.chat(self._languages[source], language, text),
            "temperature": 0,
            "max_tokens": min(400, 40 + len(text)),
            "stream": False,
        }
        if self._model:
            body["model"] = self._model
        if self._http is None or self._http.closed:
            self._http = aiohttp.ClientSession(headers=self._headers, timeout=aiohttp.ClientTimeout(ANSWER_SECONDS))
        try:
            async with self._http.post(self._url, json=body, allow_redirects=False) as response:
                if response.status != 200:
                    raise InterpreterError(f"translation endpoint: expected status 200, found {response.status}")
                raw = await response.read()
        except TimeoutError:
            raise InterpreterError(f"translation endpoint: no answer within {ANSWER_SECONDS:.0f} s") from None
        except aiohttp.ClientError as error:
            raise InterpreterError(f"translation endpoint: {type(error).__name__}") from None
        return prompt.chat_answer(_content(raw), language)

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close()


def _content(raw: bytes) -> str:
    try:
        content = orjson.loads(raw)["choices"][0]["message"]["content"]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
        raise InterpreterError("translation endpoint: the answer is not an OpenAI chat completion") from None
    return str(content or "")
