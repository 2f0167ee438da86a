"""Small models of the kinds that people deploy, each with a sample: the test bed of the product."""
