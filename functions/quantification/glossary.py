"""What a metric's name says to a person: label, unit, one line of definition, and the group that it is shown in.

`docs/reference/metrics.md` defines them at length; the values come from `metrics` and `sidecar`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

GROUPS = ("Composition", "Surface and connectivity", "Objects", "Thickness", "Transport", "Image", "Other")
"""Groups in the order in which they are shown."""

_UNITS = {
    "percent": "%",
    "um": "µm",
    "um2": "µm²",
    "um3": "µm³",
    "pixel": "pixel",
    "pixel2": "pixel²",
    "pixel3": "pixel³",
    "per_um": "µm⁻¹",
    "per_um3": "µm⁻³",
    "per_pixel": "pixel⁻¹",
    "per_pixel3": "pixel⁻³",
    "per_cm": "cm⁻¹",
}
# The unit ends a name, but for the axis or the phase that it is for.
_UNIT = re.compile(rf"_({'|'.join(sorted(_UNITS, key=len, reverse=True))})(?=(_[zyx]|_\d+)?$)")

# Pattern of the name without unit and axis; label; definition; group. Digits that the pattern catches fill the braces.
_ENTRIES = tuple(
    (re.compile(pattern), label, definition, group)
    for pattern, label, definition, group in (
        ("porosity", "Porosity", "Voxels of phase 1, the least attenuating, over voxels of the sample.", 0),
        (
            "porosity_open",
            "Open porosity",
            "Share of the sample that are pores connected to its outside or to a face of the volume.",
            0,
        ),
        (
            "porosity_closed",
            "Closed porosity",
            "Share of the sample that are pores reaching neither its outside nor a face of the volume.",
            0,
        ),
        (
            "porosity_percolating",
            "Percolating porosity",
            "Share of the measured box that are pores connecting its two opposite faces.",
            0,
        ),
        (r"phase_fraction_(\d+)", "Fraction of phase {}", "Voxels of the phase over voxels of the sample.", 0),
        ("region_volume", "Volume of the sample", "Voxels that belong to any phase, times the volume of one.", 0),
        (
            "representative_edge",
            "Representative edge",
            "Smallest cube edge at which the porosity of cubes scatters by less than 5 % of its mean.",
            0,
        ),
        (
            "surface_area",
            "Surface area",
            "Interface between the phase and the others: marching cubes on the smoothed mask.",
            1,
        ),
        (
            "surface_area_crofton",
            "Surface area, Crofton",
            "The same interface from its intersections with lines in 13 directions.",
            1,
        ),
        (
            "surface_area_grey",
            "Surface area, grey values",
            "The same interface by marching cubes on the grey values at the thresholds.",
            1,
        ),
        ("specific_surface", "Specific surface", "Surface area over the volume of the sample.", 1),
        (
            "euler_number",
            "Euler number",
            "Separate pieces minus tunnels plus cavities of the phase; negative where it is well connected.",
            1,
        ),
        ("betti_number_0", "Pieces (Betti number 0)", "Separate connected pieces of the phase.", 1),
        ("betti_number_1", "Tunnels (Betti number 1)", "Independent loops through the phase.", 1),
        ("betti_number_2", "Cavities (Betti number 2)", "Parts of other phases that the phase encloses.", 1),
        ("object_count", "Objects", "Objects that the phase was separated into.", 2),
        (
            "border_object_count",
            "Objects at the border",
            "Objects that touch the sample's outline or a face of the volume, and so are cut.",
            2,
        ),
        ("object_density", "Object density", "Objects in a unit of volume, corrected for those cut by the border.", 2),
        (
            "equivalent_diameter_mean",
            "Equivalent diameter, mean",
            "Diameter of the sphere of an object's volume; objects at the border left out.",
            2,
        ),
        ("equivalent_diameter_median", "Equivalent diameter, median", "Half of the objects are smaller.", 2),
        (
            "equivalent_diameter_std",
            "Equivalent diameter, standard deviation",
            "Spread of the diameters between objects.",
            2,
        ),
        (
            "equivalent_diameter_volume_weighted_mean",
            "Equivalent diameter, mean by volume",
            "Each object counts by its volume.",
            2,
        ),
        (
            "equivalent_diameter_volume_weighted_median",
            "Equivalent diameter, median by volume",
            "Half of the volume lies in smaller objects.",
            2,
        ),
        (
            "equivalent_diameter_border_corrected_mean",
            "Equivalent diameter, mean, border corrected",
            "Each object counts by how seldom one of its extent fits into the sample without being cut.",
            2,
        ),
        ("sphericity_mean", "Sphericity, mean", "Surface of the sphere of equal volume over the object's own.", 2),
        ("coordination_number_mean", "Coordination number, mean", "Neighbours that an object touches.", 2),
        ("throat_count", "Throats", "Pairs of objects that touch.", 2),
        (
            "throat_diameter_mean",
            "Throat diameter, mean",
            "Diameter of the largest sphere that passes from an object to its neighbour.",
            2,
        ),
        ("throat_diameter_median", "Throat diameter, median", "Half of the throats are narrower.", 2),
        (
            "thickness_mean",
            "Local thickness, mean",
            "Diameter of the largest sphere inside the phase that holds a voxel, averaged over its voxels.",
            3,
        ),
        ("thickness_median", "Local thickness, median", "Half of the phase's volume is thinner.", 3),
        ("thickness_std", "Local thickness, standard deviation", "Spread of the local thickness over the volume.", 3),
        ("thickness_binning_factor", "Thickness, binning", "Edge, in voxels, of the cubes the phase was binned to.", 3),
        ("percolates", "Percolates", "Whether the phase connects opposite faces of the measured box.", 4),
        (
            "tortuosity_geodesic_mean",
            "Geodesic tortuosity, mean",
            "Length of the shortest way through the phase over the straight distance.",
            4,
        ),
        ("tortuosity_geodesic_minimum", "Geodesic tortuosity, minimum", "The same for the shortest of all ways.", 4),
        (
            "tortuosity_binning_factor",
            "Tortuosity, binning",
            "Edge, in voxels, of the cubes the phase was binned to.",
            4,
        ),
        (
            "tortuosity_factor",
            "Tortuosity factor",
            "Porosity over the relative effective diffusivity, from Laplace's equation in the phase.",
            4,
        ),
        (
            "effective_diffusivity_ratio",
            "Effective diffusivity",
            "Diffusivity through the phase over that in free space.",
            4,
        ),
        (
            "tortuosity_factor_binning_factor",
            "Tortuosity factor, binning",
            "Edge, in voxels, of the cubes the phase was binned to.",
            4,
        ),
        ("noise_level", "Noise before denoising", "Noise of the reconstruction, resolved from the sample slices.", 5),
        (
            "noise_sigma",
            "Noise of the segmented volume",
            "Standard deviation inside phases, from neighbouring slices.",
            5,
        ),
        ("ring_level", "Ring artefacts", "Amplitude of rings around the rotation centre.", 5),
        (
            "uncertain",
            "Uncertain voxels",
            "Voxels of the sample whose grey value lies within the noise of a threshold.",
            5,
        ),
        (
            "center_confidence",
            "Confidence of the rotation centre",
            "About the chance that it is right to half a pixel.",
            5,
        ),
        ("saturated_fraction", "Saturated raw pixels", "Share of raw pixels at the detector's maximum.", 5),
        ("clipped_fraction", "Clipped raw pixels", "Share of pixels below the smallest transmission allowed.", 5),
        ("nonfinite_count", "Raw pixels without a value", "Raw pixels that were NaN or infinite, and were mended.", 5),
        ("nonfinite_fraction", "Raw pixels without a value, share", "The same over all raw pixels.", 5),
        ("nonfinite_flat_count", "Flat-field pixels without a value", "Of all flat-field frames, mended.", 5),
        ("nonfinite_dark_count", "Dark-field pixels without a value", "Of all dark-field frames, mended.", 5),
        ("dead_pixel_count", "Dead detector pixels", "Detector pixels that never answer, mended.", 5),
        ("resolution", "Resolution", "Length at which two halves of the data stop agreeing (Fourier correlation).", 5),
        (
            r"contrast_to_noise_ratio_(\d+)_(\d+)",
            "Contrast to noise, phases {} and {}",
            "Difference of the phases' means over their spread.",
            5,
        ),
        (r"phase_(\d+)_mean", "Grey value of phase {}, mean", "Mean grey value in the interior of the phase.", 5),
        (r"phase_(\d+)_std", "Grey value of phase {}, spread", "Standard deviation in the interior of the phase.", 5),
        ("grey_mean", "Grey value, mean", "Mean grey value of the sample.", 5),
        ("euler_density", "Euler number density", "Euler number over the volume of the sample.", 1),
        # Columns of the table of objects.
        ("label", "Object", "Number of the object, as in labels.h5.", 2),
        ("volume", "Volume", "Voxels of the object times the volume of one.", 2),
        ("equivalent_diameter", "Equivalent diameter", "Diameter of the sphere of the object's volume.", 2),
        ("inscribed_diameter", "Inscribed diameter", "Diameter of the largest sphere inside the object.", 2),
        ("surface", "Surface", "Closed surface of the object alone.", 2),
        ("sphericity", "Sphericity", "Surface of the sphere of equal volume over the object's own.", 2),
        ("axis_major", "Longest axis", "Of the ellipsoid with the object's moments, full length.", 2),
        ("axis_middle", "Middle axis", "Of the ellipsoid with the object's moments, full length.", 2),
        ("axis_minor", "Shortest axis", "Of the ellipsoid with the object's moments, full length.", 2),
        ("neighbours", "Neighbours", "Objects that it touches.", 2),
        ("centroid", "Centroid", "Centre of gravity, from the volume's first voxel.", 2),
        ("touches_border", "Cut", "Touches the sample's outline or a face of the volume.", 2),
    )
)


@dataclass(frozen=True)
class Description:
    """How a metric is shown.

    Attributes
    ----------
    name : str
        As in `labels.json`.
    label : str
        For a person, without the unit.
    unit : str
        "" where it is a plain number.
    definition : str
        One line; "" where the name is not known here.
    group : str
        One of `GROUPS`.
    """

    name: str
    label: str
    unit: str
    definition: str
    group: str


def describe(name: str) -> Description:
    """Label, unit and definition of a metric, by its name in `labels.json`; any name gets a readable label."""
    found = _UNIT.search(name)
    unit = _UNITS[found.group(1)] if found else ""
    base = _UNIT.sub("", name)
    axis = re.search(r"_([zyx])$", base)
    along = f" along {axis.group(1)}" if axis else ""
    base = base.removesuffix(axis.group(0)) if axis else base
    for pattern, label, definition, group in _ENTRIES:
        match = pattern.fullmatch(base)
        if match:
            return Description(name, label.format(*match.groups()) + along, unit, definition, GROUPS[group])
    words = base.replace("_", " ")
    return Description(name, words[:1].upper() + words[1:] + along, unit, "", GROUPS[-1])


def unit_text(unit: str) -> str:
    """A unit as it stands in names ("um", "per_cm", "1/cm") for a person ("µm", "cm⁻¹")."""
    return _UNITS.get(unit.replace("1/", "per_"), unit)
