"""Model folders on disk: safe reading and atomic writing, model cards, licences, the Hub."""
