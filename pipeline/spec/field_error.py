"""The error with which a check over a whole model names the one field to change."""

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError


def refusal(message: str, *field: str | int, got: object = None) -> ValidationError:
    """The error to raise in a validator for `field`, a path from the model that is validated."""
    problem = PydanticCustomError("value_error", "{message}", {"message": message})
    return ValidationError.from_exception_data(
        "refusal", [InitErrorDetails(type=problem, loc=field, input=got)]
    )
