"""From raw counts to line integrals: normalization, zingers, stripes; and the rotation centre."""
