"""Act: clients, parameter server and evaluator as plain classes, each with a thin remote shell."""
