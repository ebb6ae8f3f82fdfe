"""From what people ask to rows and items: checking queries, making them vectors, fusing fields."""
