"""The options of an S3 connection, in a separate file, so that they can be created without loading boto3."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

Encryption = Literal["AES256", "aws:kms"]


class S3Options(BaseModel):
    """The address of the S3 server and the credentials for it.

    Without keys, boto3's own chain finds credentials (environment, profile, instance role). An `endpoint_url`
    means a server other than AWS and switches to path-style addresses.
    """

    # Kubernetes sets SECATEUR_S3_PORT and the like for a service `secateur-s3`: extra fields are no error.
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    endpoint_url: str | None = Field(default=None, description="S3 server other than AWS.")
    region: str | None = Field(default=None, description="S3 region.")
    access_key: SecretStr | None = Field(
        default=None, description="S3 access key; left out, boto3 looks in its usual places."
    )
    secret_key: SecretStr | None = Field(default=None, description="S3 secret key.")
    sse: Encryption | None = Field(default=None, description="Server-side encryption of what is stored.")
    kms_key_id: str | None = Field(default=None, description="KMS key, with `aws:kms` only.")
    checksums: bool = Field(
        default=True, description="SHA-256 checksums on uploads; off for servers that refuse them."
    )

    @property
    def keys(self) -> tuple[str, str] | None:
        """The access key and the secret key in plain text; None if boto3 shall find its own."""
        if self.access_key is None or self.secret_key is None:
            return None
        return self.access_key.get_secret_value(), self.secret_key.get_secret_value()

    @field_validator("endpoint_url")
    @classmethod
    def _without_credentials(cls, value: str | None) -> str | None:
        if value is not None and "@" in value:
            raise ValueError("endpoint_url must not hold credentials; use access_key and secret_key")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("S3 options need access_key and secret_key together, or neither")
        if self.kms_key_id is not None and self.sse != "aws:kms":
            raise ValueError(f"kms_key_id needs sse='aws:kms', got sse={self.sse!r}")
        return self


class S3Settings(BaseModel):
    """The settings that storage and sources share: the one S3 server of a deployment."""

    s3: S3Options = S3Options()
