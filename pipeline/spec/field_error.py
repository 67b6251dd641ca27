"""How a check over a whole model names the one field that is to be changed."""

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError


def refusal(message: str, *field: str | int, got: object = None) -> ValidationError:
    """To be raised in a validator: an error of `field`, a path from the model that is validated."""
    problem = PydanticCustomError("value_error", "{message}", {"message": message})
    return ValidationError.from_exception_data(
        "refusal", [InitErrorDetails(type=problem, loc=field, input=got)]
    )
