"""What a fitted model says of rows: quadrature, posterior, scores, criteria, explanations, blocks."""
