"""Centre loss and simplex-ETF regulariser of the class centres (ReMoP)."""
