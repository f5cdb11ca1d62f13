"""Phantoms with analytic truth and scans as a detector would record them."""

from .detector import Detector, DetectorSettings
from .phantoms import Phantom, PhantomKind, make_phantom, rasterize_attenuation, rasterize_phases
from .projection import project
from .scan_file import SimulationSettings, scan_truth, simulate_scan

__all__ = [
    "Detector",
    "DetectorSettings",
    "Phantom",
    "PhantomKind",
    "SimulationSettings",
    "make_phantom",
    "project",
    "rasterize_attenuation",
    "rasterize_phases",
    "scan_truth",
    "simulate_scan",
]
