"""Which degrees of parallelism a network's sizes allow, and how long its sequences may be."""

from __future__ import annotations

from windtunnel.errors import ScenarioError
from windtunnel.models.flops import counted
from windtunnel.models.network import MLP, Attention, Block, LatentAttention, MoE, Network, StateSpace


def _divisors(n: int, most: int = 64) -> str:
    found = [d for d in range(1, min(n, 4096) + 1) if n % d == 0]
    return ", ".join(map(str, found[:most]))


def _every(network: Network) -> list[Block]:
    """The distinct layers, in order."""
    return [block for block, _ in counted(network.encoder + network.blocks)]


def check_tp(network: Network, tp: int, name: str = "tp") -> None:
    """Heads, feed-forward widths and recurrent channels must split evenly; key/value heads may be copied instead.

    Raises:
        ScenarioError: naming the size that ``tp`` does not divide, and what would divide it.
    """

    def divides(size: int, what: str) -> None:
        if size % tp:
            raise ScenarioError(
                f"{name}={tp} does not divide the {what.format(size)} of {network.name}; "
                f"accepted: {_divisors(size, 24)}"
            )

    for block in _every(network):
        for mixer in (block.mixer, block.cross):
            if isinstance(mixer, Attention | LatentAttention):
                divides(mixer.heads, "{} attention heads")
            if isinstance(mixer, Attention) and mixer.kv_heads % tp and tp % mixer.kv_heads:
                good = (d for d in range(1, mixer.heads + 1) if mixer.heads % d == 0)
                accepted = (d for d in good if mixer.kv_heads % d == 0 or d % mixer.kv_heads == 0)
                raise ScenarioError(
                    f"{name}={tp} neither divides nor is a multiple of the {mixer.kv_heads} key/value heads "
                    f"of {network.name}; accepted: {', '.join(map(str, accepted))}"
                )
            if isinstance(mixer, StateSpace):
                divides(mixer.inner, "{} recurrent channels")
        dense = block.ffn.shared if isinstance(block.ffn, MoE) else block.ffn
        if isinstance(dense, MLP):
            divides(dense.intermediate, "feed-forward size {}")


def check_stages(network: Network, pp: int) -> None:
    """A pipeline stage holds a layer at least.

    Raises:
        ScenarioError: more stages than layers.
    """
    if pp > network.layers:
        raise ScenarioError(
            f"pp={pp} is more than the {network.layers} layers of {network.name}; accepted: 1 to {network.layers}"
        )


def check_experts(network: Network, ep: int, etp: int, tp: int, ranks: int) -> None:
    """Expert parallelism must divide the experts and the ``ranks`` (tp x cp x dp) that hold them.

    Raises:
        ScenarioError: otherwise, or if degrees are asked for experts that the model does not have.
    """
    moes = list(dict.fromkeys(b.ffn for b in _every(network) if isinstance(b.ffn, MoE)))
    if not moes:
        if ep > 1:
            raise ScenarioError(f"ep={ep}: {network.name} has no experts; accepted: 1")
        if etp != tp:
            raise ScenarioError(f"etp={etp}: {network.name} has no experts; accepted: nothing, or tp={tp}")
        return
    for moe in moes:
        if moe.experts % ep:
            raise ScenarioError(
                f"ep={ep} does not divide the {moe.experts} experts of {network.name}; "
                f"accepted: {_divisors(moe.experts)}"
            )
        if moe.expert.intermediate % etp:
            raise ScenarioError(
                f"etp={etp} does not divide the expert size {moe.expert.intermediate} of {network.name}; "
                f"accepted: {_divisors(moe.expert.intermediate, 24)}"
            )
    if ranks % (ep * etp):
        raise ScenarioError(
            f"etp x ep = {etp} x {ep} = {etp * ep} does not divide the {ranks} ranks (tp x cp x dp) of a pipeline "
            f"stage; accepted: {_divisors(ranks)}"
        )


def check_positions(network: Network, what: str, length: int, warnings: list[str]) -> None:
    """A learned position table cannot be exceeded; other positions are only stated (a warning).

    Raises:
        ScenarioError: ``length`` tokens are more than the learned positions.
    """
    limit = network.max_positions
    if limit is None or length <= limit:
        return
    if any(isinstance(b.mixer, Attention) and b.mixer.position == "learned" for b in _every(network)):
        raise ScenarioError(
            f"{what}={length} is more than the {limit} learned positions of {network.name}; accepted: up to {limit}"
        )
    warnings.append(f"{what}={length} is beyond the {limit} positions that {network.name} states")


def has_experts(network: Network) -> bool:
    """Whether any layer is a mixture of experts."""
    return any(isinstance(b.ffn, MoE) for b in _every(network))
