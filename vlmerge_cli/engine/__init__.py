"""How work is run: numpy and torch arrays, threads, forked processes, shares of ranks; knows no method and no file."""
