"""What customer and agent say in the demo, in every language the offline interpreter has.

The German and English lines are such that machine voices are understood by the small recogniser at 8 kHz; those of people mostly are.
"""

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
    words: dict[str, tuple[tuple[str, ...], ...]]
    """Beginnings of words, of which one of each group must be heard when the line has been translated into that language."""

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
        {
            "de": (("helf", "hilf"),),
            "en": (("help", "assist"),),
            "es": (("ayud",),),
            "fr": (("aid",),),
        },
    ),
    Line(
        "customer",
        {
            "de": "Mein Telefon ist kaputt.",
            "en": "My telephone is broken.",
            "es": "Mi teléfono no funciona.",
            "fr": "Mon téléphone est en panne.",
        },
        {
            "de": (("telefon", "handy"), ("kaputt", "defekt", "funktioniert", "gebrochen")),
            "en": (("phone", "telephone"), ("broken", "work", "damage", "function")),
            "es": (("telefono",), ("roto", "averiad", "funciona")),
            "fr": (("telephone",), ("panne", "cass", "marche", "fonctionne")),
        },
    ),
    Line(
        "agent",
        {
            "de": "Der Techniker kann am Montag kommen.",
            "en": "The technician can come on Monday.",
            "es": "El técnico puede venir el lunes.",
            "fr": "Le technicien peut venir lundi.",
        },
        {
            "de": (("techniker",), ("montag",)),
            "en": (("technician", "engineer"), ("monday",)),
            "es": (("tecnico",), ("lunes",)),
            "fr": (("technicien",), ("lundi",)),
        },
    ),
    Line(
        "customer",
        {
            "de": "Am Montag habe ich keine Zeit.",
            "en": "I have no time on Monday.",
            "es": "El lunes no tengo tiempo.",
            "fr": "Lundi, je n'ai pas le temps.",
        },
        {
            "de": (("montag",), ("zeit",)),
            "en": (("monday",), ("time",)),
            "es": (("lunes",), ("tiempo",)),
            "fr": (("lundi",), ("temps",)),
        },
    ),
    Line(
        "agent",
        {
            "de": "Er kann am Freitag kommen.",
            "en": "He can come on Friday.",
            "es": "Puede venir el viernes.",
            "fr": "Il peut venir vendredi.",
        },
        {
            "de": (("freitag",),),
            "en": (("friday",),),
            "es": (("viernes",),),
            "fr": (("vendredi",),),
        },
    ),
    Line(
        "customer",
        {
            "de": "Ja, das ist möglich.",
            "en": "Yes, that is possible.",
            "es": "Sí, es posible.",
            "fr": "Oui, c'est possible.",
        },
        {
            "de": (("möglich", "geht"),),
            "en": (("possible",),),
            "es": (("posible",),),
            "fr": (("possible",),),
        },
    ),
)


def check_languages(source: str, target: str) -> None:
    """:raises UsageError: a language without lines, or the same on both sides."""
    for name, value in (("--source", source), ("--target", target)):
        if value not in LANGUAGES:
            raise UsageError(f"{name}: expected one of {', '.join(LANGUAGES)}, found {value!r}")
    if source == target:
        raise UsageError(f"--target: expected another language than --source ({source}), found the same")
