"""What machines can do: accelerators, memories, links, nodes, networks and prices, each figure with its source."""

from windtunnel.hardware.catalogue import accelerator_names, fabric_names, load_accelerator, node_names
from windtunnel.hardware.cluster import parse_cluster
from windtunnel.hardware.cluster_file import cluster_data, write_cluster
from windtunnel.hardware.describe import describe
from windtunnel.hardware.machine import RESOURCES, Accelerator, Cluster, Level, Memory, Resource
from windtunnel.hardware.overrides import override_keys
from windtunnel.hardware.rates import scale_resource, spread
from windtunnel.hardware.yaml_file import read_user_yaml

__all__ = [
    "RESOURCES",
    "Accelerator",
    "Cluster",
    "Level",
    "Memory",
    "Resource",
    "accelerator_names",
    "cluster_data",
    "describe",
    "fabric_names",
    "load_accelerator",
    "node_names",
    "override_keys",
    "parse_cluster",
    "read_user_yaml",
    "scale_resource",
    "spread",
    "write_cluster",
]
