"""The HTTP edge: public routes, runtime routes, authorization, translation of errors."""
