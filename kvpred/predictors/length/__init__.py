"""How long answers are: predictors of response lengths, and how compression shifts them."""
