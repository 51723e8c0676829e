"""The types of a request's fields, and the rules that depend on its model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError, PydanticKnownError

from prefect_loova.errors import InvalidRequestError, counted
from prefect_loova.models.prices import LONGEST, MODEL_NAME, MODELS, RATIO, Model, Models, Ratio, VideoModel

_NAMES = {"names": ", ".join(MODELS)}
_DOCUMENTED = MODELS["seedance_2_0"]

RULES_OF_DOCUMENTED_MODELS: dict[str, Any] = {
    "if": {"properties": {"model": {"enum": list(MODELS)}}},
    "then": {
        "properties": {
            "ratio": {"enum": list(_DOCUMENTED.ratios)},
            "duration": {"minimum": _DOCUMENTED.shortest, "maximum": _DOCUMENTED.longest},
            **{field: {"maxItems": most} for field, most in _DOCUMENTED.most_media.items()},
        }
    },
}
"""The part of a request's JSON schema that applies to the documented models only."""


def _choice(values: tuple[str, ...], pattern: str) -> WithJsonSchema:
    """Return the schema of a field with choices for a form, and with other values for a user's own models."""
    known = {"type": "string", "enum": list(values), "title": "Known"}
    return WithJsonSchema({"anyOf": [known, {"type": "string", "pattern": f"^{pattern}$", "title": "Other"}]})


def _whole_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _model_name(value: str) -> str:
    if not re.fullmatch(MODEL_NAME, value):
        raise PydanticCustomError("model", "must be the name of a model: {names}, or one of your own", _NAMES)
    return value


def _ratio(value: str, info: ValidationInfo) -> str:
    model = MODELS.get(info.data.get("model", ""))
    if model is not None and value not in model.ratios:
        *others, last = map(repr, model.ratios)
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(others)} or {last}"})
    if not re.fullmatch(RATIO, value):
        raise PydanticCustomError("ratio", "must be width:height, such as 16:9")
    return value


def _duration(value: int, info: ValidationInfo) -> int:
    model = MODELS.get(info.data.get("model", ""))
    shortest, longest = (model.shortest, model.longest) if model else (1, LONGEST)
    if value < shortest:
        raise PydanticKnownError("greater_than_equal", {"ge": shortest})
    if value > longest:
        raise PydanticKnownError("less_than_equal", {"le": longest})
    return value


def _label(value: str) -> str:
    if not value.isprintable():
        raise PydanticCustomError("label", "must be one line of printable text")
    return value.strip()


MAX_TAKES = 100
"""The most takes of one request in a list."""

Label = Annotated[str, Field(max_length=100), AfterValidator(_label)]
"""A label of a request."""

ModelName = Annotated[str, AfterValidator(_model_name), _choice(get_args(Model), MODEL_NAME)]
"""The name of a model: a documented one, or a user's own."""

RatioName = Annotated[str, AfterValidator(_ratio), _choice(get_args(Ratio), RATIO)]
"""The ratio of a request, which comes after its model."""

whole_number = BeforeValidator(_whole_number, json_schema_input_type=int)
"""Accepts 5.0 as 5."""

allowed_duration = AfterValidator(_duration)
"""Checks the duration of a request, which comes after its model."""


def known_model(name: str, models: Models) -> VideoModel:
    """Return a model of the table.

    Raises:
        InvalidRequestError: The table does not have it. The error names those that it has.
    """
    if name not in models:
        raise InvalidRequestError(
            f"model: {name!r} was given: must be one of {', '.join(models)}; add another one to `models` of the Loova "
            "Credentials block"
        )
    return models[name]


def model_problems(request: Mapping[str, Any], model: VideoModel) -> Iterator[str]:
    """Yield the violations of the rules of a request's model, each with field, value and rule."""
    mode, ratio, duration = request["function_mode"], request["ratio"], request["duration"]
    for prompt in ("prompt", "fallback_prompt"):
        length = len(request[prompt] or "")
        if model.longest_prompt is not None and length > model.longest_prompt:
            most = f"{model.name} takes at most {model.longest_prompt:,}"
            yield f"{prompt}: {counted(length, 'character')} given: {most}"
    if mode not in model.modes:
        yield f"function_mode: {mode!r} was given: {model.name} takes {', '.join(model.modes)}"
    if ratio not in model.ratios:
        yield f"ratio: {ratio!r} was given: {model.name} takes {', '.join(model.ratios)}"
    if not model.shortest <= duration <= model.longest:
        yield f"duration: {duration} was given: {model.name} takes {model.shortest} to {model.longest} s"
    for field, most_of_it in model.most_media.items():
        count = len(request[field])
        if count > most_of_it:
            kind = field.removesuffix("_urls")
            yield f"{field}: {counted(count, kind)} given: {model.name} takes at most {most_of_it}"
