"""What mangos' own tests check, clause by clause; docs/conformance.md says which test is for which."""
