"""What customer and agent say in the demo, in every language the offline interpreter has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kallglot_ari.errors import UsageError

LANGUAGES = ("de", "en", "es", "fr")


@dataclass(frozen=True, slots=True)
class Line:
    """One turn. `text` and `words` are by language."""

    speaker: Literal["customer", "agent"]
    text: dict[str, str]
    words: dict[str, tuple[str, ...]]
    """Beginnings of words of which one must be heard when the line has been translated into that language."""

    @property
    def listener(self) -> Literal["customer", "agent"]:
        return "agent" if self.speaker == "customer" else "customer"


DIALOGUE = (
    Line(
        "agent",
        {
            "de": "Guten Morgen, wie kann ich Ihnen helfen?",
            "en": "Good morning, how can I help you?",
            "es": "Buenos días, ¿en qué puedo ayudarle?",
            "fr": "Bonjour, comment puis-je vous aider ?",
        },
        {"de": ("helf", "hilf"), "en": ("help",), "es": ("ayud",), "fr": ("aid",)},
    ),
    Line(
        "customer",
        {
            "de": "Ich habe die Rechnung noch nicht erhalten.",
            "en": "I have not received the invoice yet.",
            "es": "Todavía no he recibido la factura.",
            "fr": "Je n'ai pas encore reçu la facture.",
        },
        {"de": ("rechnung",), "en": ("invoice", "bill"), "es": ("factura",), "fr": ("factur",)},
    ),
    Line(
        "agent",
        {
            "de": "Wie lautet Ihre Kundennummer?",
            "en": "What is your customer number?",
            "es": "¿Cuál es su número de cliente?",
            "fr": "Quel est votre numéro de client ?",
        },
        {
            "de": ("nummer", "kundennummer", "kunden"),
            "en": ("number", "customer"),
            "es": ("número", "cliente"),
            "fr": ("numéro", "client"),
        },
    ),
    Line(
        "customer",
        {
            "de": "Meine Kundennummer ist vier sieben eins zwei.",
            "en": "My customer number is four seven one two.",
            "es": "Mi número de cliente es cuatro siete uno dos.",
            "fr": "Mon numéro de client est quatre sept un deux.",
        },
        {
            "de": ("nummer", "kunden", "vier", "4"),
            "en": ("number", "customer", "four", "4"),
            "es": ("número", "cliente", "cuatro", "4"),
            "fr": ("numéro", "client", "quatre", "4"),
        },
    ),
    Line(
        "agent",
        {
            "de": "Ich schicke Ihnen die Rechnung heute.",
            "en": "I will send you the invoice today.",
            "es": "Le enviaré la factura hoy.",
            "fr": "Je vous envoie la facture aujourd'hui.",
        },
        {
            "de": ("rechnung", "heute"),
            "en": ("invoice", "bill", "today"),
            "es": ("factura", "hoy"),
            "fr": ("factur", "aujourd"),
        },
    ),
    Line(
        "customer",
        {
            "de": "Vielen Dank für Ihre Hilfe.",
            "en": "Thank you very much for your help.",
            "es": "Muchas gracias por su ayuda.",
            "fr": "Merci beaucoup pour votre aide.",
        },
        {"de": ("dank", "hilfe"), "en": ("thank", "help"), "es": ("gracias", "ayuda"), "fr": ("merci", "aide")},
    ),
)


def check_languages(source: str, target: str) -> None:
    """:raises UsageError: a language without lines, or the same on both sides."""
    for name, value in (("--source", source), ("--target", target)):
        if value not in LANGUAGES:
            raise UsageError(f"{name}: expected one of {', '.join(LANGUAGES)}, found {value!r}")
    if source == target:
        raise UsageError(f"--target: expected another language than --source ({source}), found the same")
