"""Who reaches whom under the rendered network policies."""

from collections.abc import Callable, Iterator

import pytest

from tests.deploy.charts import Object, Rendered

Render = Callable[..., Rendered]
NAMESPACES = {"kubernetes.io/metadata.name": "ml"}


class Network:
    """The policies of a release over its own pods and a few strangers."""

    def __init__(self, rendered: Rendered) -> None:
        self.policies = rendered.of("NetworkPolicy")
        self.pods = {name.partition("/")[2]: pod for name, pod in rendered.pods()}
        self.pods["stranger"] = {"metadata": {"labels": {"app": "other"}}, "spec": {"containers": []}}

    def reaches(self, source: str, target: str, port: int) -> bool:
        """Whether both sides allow it. Pods that no policy selects are free."""
        return self._lets(source, "egress", "to", target, target, port) and self._lets(
            target, "ingress", "from", source, target, port
        )

    def leaves(self, source: str, port: int, namespace: str = "elsewhere") -> bool:
        """Whether a pod may go to some pod of another namespace."""
        there = {"kubernetes.io/metadata.name": namespace}
        rules = list(self._rules(source, "egress"))
        return not self._selected(source, "Egress") or any(
            self._port(rule, port, None)
            and ("to" not in rule or any(_peer(p, {}, there) for p in rule["to"]))
            for rule in rules
        )

    def _lets(self, at: str, direction: str, key: str, other: str, target: str, port: int) -> bool:
        if not self._selected(at, direction.capitalize()):
            return True
        labels = self.pods[other]["metadata"]["labels"]
        return any(
            self._port(rule, port, target)
            and (key not in rule or any(_peer(peer, labels, NAMESPACES) for peer in rule[key]))
            for rule in self._rules(at, direction)
        )

    def _selected(self, name: str, kind: str) -> bool:
        return any(kind in policy["spec"]["policyTypes"] for policy in self._of(name))

    def _of(self, name: str) -> list[Object]:
        labels = self.pods[name]["metadata"]["labels"]
        return [one for one in self.policies if _matches(one["spec"]["podSelector"], labels)]

    def _rules(self, name: str, direction: str) -> Iterator[Object]:
        for policy in self._of(name):
            yield from policy["spec"].get(direction, [])

    def _port(self, rule: Object, port: int, target: str | None) -> bool:
        if "ports" not in rule:
            return True
        containers = self.pods[target]["spec"]["containers"] if target else []
        named = {one.get("name"): one["containerPort"] for c in containers for one in c.get("ports", [])}
        return any(named.get(one["port"], one["port"]) == port for one in rule["ports"])


def _peer(peer: Object, labels: dict[str, str], namespace: dict[str, str]) -> bool:
    if "ipBlock" in peer:
        return False
    if "namespaceSelector" not in peer and namespace != NAMESPACES:
        return False
    return _matches(peer.get("podSelector", {}), labels) and _matches(
        peer.get("namespaceSelector", {}), namespace
    )


def _matches(selector: Object, labels: dict[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items()


@pytest.fixture
def production(render: Render) -> Network:
    """All policies there are."""
    return Network(render("production"))


def test_every_policy_selects_a_pod_and_names_ports_that_it_has(render: Render) -> None:
    for name in ("production", "existing-cluster"):
        network = Network(render(name))
        assert network.policies
        for policy in network.policies:
            selector = policy["spec"]["podSelector"]
            chosen = [p for p in network.pods.values() if _matches(selector, p["metadata"]["labels"])]
            assert chosen, policy["metadata"]["name"]
            named = {
                one["port"]
                for rule in policy["spec"].get("ingress", [])
                for one in rule.get("ports", [])
                if isinstance(one["port"], str)
            }
            for pod in chosen:
                ports = {one["name"] for c in pod["spec"]["containers"] for one in c.get("ports", [])}
                assert named <= ports, policy["metadata"]["name"]
    assert not render("small").of("NetworkPolicy")


@pytest.mark.parametrize(
    ("source", "target", "port", "allowed"),
    [
        ("demo-secateur", "head", 8265, True),  # submits jobs
        ("demo-secateur", "head", 6379, False),
        ("demo-secateur", "gpu", 8265, False),
        ("head", "demo-secateur", 8080, True),  # drivers report
        ("gpu", "demo-secateur", 8080, True),
        ("gpu", "head", 6379, True),
        ("gpu", "cpu", 12345, True),  # objects move between workers on any port
        ("stranger", "head", 8265, False),
        ("stranger", "head", 10001, False),
        ("stranger", "gpu", 8080, False),
        ("stranger", "demo-secateur", 8080, False),
        ("demo-secateur-test", "demo-secateur", 8080, True),
        ("demo-secateur-migrations", "demo-secateur", 8080, False),
        ("demo-secateur-migrations", "head", 8265, False),
    ],
)
def test_within_the_release(production: Network, source: str, target: str, port: int, allowed: bool) -> None:
    assert production.reaches(source, target, port) is allowed


def test_out_of_the_release(production: Network) -> None:
    for pod in ("demo-secateur", "head", "gpu", "demo-secateur-migrations"):
        assert production.leaves(pod, 53), "DNS"
        assert not production.leaves(pod, 22)
    for pod in ("demo-secateur", "head", "gpu"):
        assert production.leaves(pod, 443), "S3 and the hub"
    assert not production.leaves("demo-secateur-migrations", 443)
    assert production.leaves("head", 6443), "Kubernetes for the autoscaler"
    assert not production.leaves("gpu", 6443)
    assert production.leaves("head", 6379, "databases"), "Redis"
    assert not production.leaves("head", 6379)
    assert not production.leaves("head", 5432)
    assert not production.leaves("demo-secateur", 5432), "PostgreSQL is in 10.20.0.0/24 only"
    (rule,) = [r for r in production._rules("demo-secateur", "egress") if r["ports"][0]["port"] == 5432]
    assert rule["to"] == [{"ipBlock": {"cidr": "10.20.0.0/24"}}]


def test_ports_follow_the_addresses(render: Render) -> None:
    """MinIO's port is taken from its address; a Ray cluster elsewhere is reached and let in by its peers."""
    small = Network(render("small", "--set=networkPolicy.enabled=true"))
    assert small.leaves("cpu", 9000)
    assert small.leaves("demo-secateur", 9000)
    outside = Network(render("existing-cluster"))
    assert not outside.leaves("demo-secateur", 8265)
    (rule,) = [r for r in outside._rules("demo-secateur", "egress") if r["ports"][0]["port"] == 8265]
    assert {"from": rule["to"], "ports": [{"port": "http", "protocol": "TCP"}]} in list(
        outside._rules("demo-secateur", "ingress")
    )


def test_no_hub_no_rule(render: Render) -> None:
    closed = Network(render("small", "--set=networkPolicy.enabled=true", "--set=hub.offline=true"))
    assert not closed.leaves("cpu", 443)
