"""Names of metrics, and what a person reads instead."""

from __future__ import annotations

import pytest

from tomopipe.functions.quantification.glossary import GROUPS, describe, unit_text

NAMES_TEXT = """
porosity_percent porosity_open_percent porosity_closed_percent porosity_percolating_percent_z phase_fraction_percent_3
region_volume_um3 surface_area_um2 surface_area_crofton_um2 surface_area_grey_pixel2 specific_surface_per_um euler_number
betti_number_0 betti_number_1 betti_number_2 coordination_number_mean object_count border_object_count
equivalent_diameter_mean_um equivalent_diameter_median_um equivalent_diameter_std_um
equivalent_diameter_volume_weighted_mean_um equivalent_diameter_volume_weighted_median_um
equivalent_diameter_border_corrected_mean_um object_density_per_um3 sphericity_mean throat_count throat_diameter_mean_um
throat_diameter_median_um thickness_mean_um thickness_median_um thickness_std_um thickness_binning_factor percolates_z
tortuosity_geodesic_mean_y tortuosity_geodesic_minimum_x tortuosity_binning_factor tortuosity_factor_z
effective_diffusivity_ratio_z tortuosity_factor_binning_factor representative_edge_um noise_level_per_cm
noise_sigma_per_pixel ring_level_per_cm uncertain_percent center_confidence saturated_fraction clipped_fraction
nonfinite_count resolution_um contrast_to_noise_ratio_1_2 phase_1_mean_per_cm phase_2_std_per_cm
"""
NAMES = NAMES_TEXT.split()


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_is_defined(name: str) -> None:
    told = describe(name)
    assert told.definition
    assert told.group in GROUPS[:-1]
    assert "_" not in told.label
    assert told.name == name


def test_labels_are_unique() -> None:
    labels = [describe(name).label for name in NAMES]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("name", "label", "unit"),
    [
        ("porosity_percent", "Porosity", "%"),
        ("porosity_percolating_percent_z", "Percolating porosity along z", "%"),
        ("phase_fraction_percent_3", "Fraction of phase 3", "%"),
        ("object_density_per_um3", "Object density", "µm⁻³"),
        ("surface_area_grey_pixel2", "Surface area, grey values", "pixel²"),
        ("contrast_to_noise_ratio_1_2", "Contrast to noise, phases 1 and 2", ""),
        ("phase_2_std_per_cm", "Grey value of phase 2, spread", "cm⁻¹"),
        ("percolates_x", "Percolates along x", ""),
        ("something_new_per_um", "Something new", "µm⁻¹"),
        ("", "", ""),
    ],
)
def test_label_and_unit(name: str, label: str, unit: str) -> None:
    assert (describe(name).label, describe(name).unit) == (label, unit)


def test_units_of_the_sidecar() -> None:
    assert [unit_text(unit) for unit in ("um", "pixel", "1/cm", "per_um", "furlong")] == [
        "µm",
        "pixel",
        "cm⁻¹",
        "µm⁻¹",
        "furlong",
    ]
