"""From line integrals to slices of the attenuation coefficient."""
