"""One Gladier tool a state of the flow."""
