"""What SecateurClient can do about API keys."""

from api.client.connection import Connection, safe
from api.service.keys.views import CallerView, KeyList, KeyRequest, KeyView, NewKeyView


class KeyCalls(Connection):
    """Whose key ours is; the rest is for admins."""

    def whoami(self) -> CallerView:
        """GET /keys/me: whose key ours is."""
        return self._fetch("GET", "/keys/me", CallerView)

    def create_key(self, request: KeyRequest) -> NewKeyView:
        """POST /keys. The answer alone has the secret."""
        return self._fetch("POST", "/keys", NewKeyView, json=request)

    def list_keys(self) -> tuple[KeyView, ...]:
        """GET /keys: all of them, newest first."""
        return self._fetch("GET", "/keys", KeyList).data

    def revoke_key(self, key_id: str) -> KeyView:
        """POST /keys/{id}/revoke."""
        return self._fetch("POST", f"/keys/{safe(key_id)}/revoke", KeyView)
