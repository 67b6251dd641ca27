"""The calls of SecateurClient for API keys."""

from api.client.connection import Connection, safe
from api.service.keys.views import CallerView, KeyList, KeyRequest, KeyView, NewKeyView


class KeyCalls(Connection):
    """Calls for API keys. All but `whoami` need an admin key."""

    def whoami(self) -> CallerView:
        """GET /keys/me: the name and the role of the client's key."""
        return self._fetch("GET", "/keys/me", CallerView)

    def create_key(self, request: KeyRequest) -> NewKeyView:
        """POST /keys. Only this answer has the secret."""
        return self._fetch("POST", "/keys", NewKeyView, json=request)

    def list_keys(self) -> tuple[KeyView, ...]:
        """GET /keys: all keys, newest first."""
        return self._fetch("GET", "/keys", KeyList).data

    def revoke_key(self, key_id: str) -> KeyView:
        """POST /keys/{id}/revoke."""
        return self._fetch("POST", f"/keys/{safe(key_id)}/revoke", KeyView)
